// Sliding windows on the GPU: cut a window, add its weighted margins, finish a slab.
//
// Arrays are in file order (X, Y, Z), Z fastest, as in numpy. Buffers that hold only a part of the volume are rings
// along the slab axis: row r lies at r modulo the ring's length, which is what `wrap` does.
//
// Every operation is written as numpy does it (no fused multiply-add: compiled with --fmad=false), and windows of a slab
// arrive one after the other, so that sums equal those of the CPU bit for bit.

struct Shape { int x, y, z; };  // three int32 beside each other, as numpy passes them

__device__ inline long long volume(Shape s) { return (long long)s.x * s.y * s.z; }

__device__ inline int wrap(int index, int length) { return index < length ? index : index - length; }

// Offset in a ring buffer of the voxel `i` (linear, file order) of a box that begins at `start`.
__device__ inline long long place(long long i, Shape box, Shape start, Shape buffer)
{
    int z = (int)(i % box.z);
    int y = (int)(i / box.z % box.y);
    int x = (int)(i / box.z / box.y);
    x = wrap(start.x + x, buffer.x);
    y = wrap(start.y + y, buffer.y);
    z = wrap(start.z + z, buffer.z);
    return ((long long)x * buffer.y + y) * buffer.z + z;
}

__device__ inline long long thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

// image at (start + i) = rows[i]: rows that arrived in one piece take their places in the image's ring.
extern "C" __global__ void spread(const float *rows, float *image, Shape buffer, Shape start, Shape box)
{
    long long i = thread();
    if (i < volume(box)) image[place(i, box, start, buffer)] = rows[i];
}

// Smallest and largest of the bits of windows, as integers: equal for a window of one value, and only then. One block a
// window; `starts` holds x, y, z of each; `least` begins as all ones, `most` as zeros.
extern "C" __global__ void extent(const float *image, const int *starts, unsigned int *least, unsigned int *most,
                                  Shape buffer, Shape box)
{
    Shape start = {starts[3 * blockIdx.x], starts[3 * blockIdx.x + 1], starts[3 * blockIdx.x + 2]};
    unsigned int low = 0xffffffffu, high = 0u;
    for (long long i = threadIdx.x; i < volume(box); i += blockDim.x) {
        unsigned int value = __float_as_uint(image[place(i, box, start, buffer)]);
        low = min(low, value);
        high = max(high, value);
    }
    atomicMin(least + blockIdx.x, low);
    atomicMax(most + blockIdx.x, high);
}

// window[i] = image at (start + i).
extern "C" __global__ void crop(const float *image, float *window, Shape buffer, Shape start, Shape box)
{
    long long i = thread();
    if (i < volume(box)) window[i] = image[place(i, box, start, buffer)];
}

// total[c] += margins[channels[c]] * weight and norm += weight, over one window. A margin that is not finite sets *bad.
extern "C" __global__ void accumulate(const float *margins, const float *weights, const int *channels, float *total,
                                      float *norm, int *bad, Shape buffer, Shape start, Shape box, int count)
{
    long long i = thread();
    if (i >= volume(box)) return;
    long long target = place(i, box, start, buffer);
    float weight = weights[i];
    for (int c = 0; c < count; ++c) {
        float margin = margins[channels[c] * volume(box) + i];
        if (!(fabsf(margin) <= 3.402823466e+38f)) *bad = 1;
        total[c * volume(buffer) + target] += margin * weight;
    }
    norm[target] += weight;
}

// Label of the largest positive margin, 0 where none is positive, the first of equals; clears what it read.
template <typename Label>
__device__ inline void finish(float *total, float *norm, const int *values, Label *labels, Shape buffer, Shape start,
                              Shape box, int count)
{
    long long i = thread();
    if (i >= volume(box)) return;
    long long source = place(i, box, start, buffer);
    float best = 0.0f;
    int label = 0;
    for (int c = 0; c < count; ++c) {
        float *sum = total + c * volume(buffer) + source;
        float margin = *sum / norm[source];  // 0 / 0, where no window lies, is not larger than anything
        if (margin > best) {
            best = margin;
            label = values[c];
        }
        *sum = 0.0f;
    }
    norm[source] = 0.0f;
    labels[i] = (Label)label;
}

extern "C" __global__ void finish_labels8(float *total, float *norm, const int *values, unsigned char *labels,
                                          Shape buffer, Shape start, Shape box, int count)
{
    finish(total, norm, values, labels, buffer, start, box, count);
}

extern "C" __global__ void finish_labels16(float *total, float *norm, const int *values, unsigned short *labels,
                                           Shape buffer, Shape start, Shape box, int count)
{
    finish(total, norm, values, labels, buffer, start, box, count);
}

// margins[c] = total[c] / norm over a finished slab, zero where no window lies; clears what it read.
extern "C" __global__ void finish_margins(float *total, float *norm, float *margins, Shape buffer, Shape start,
                                          Shape box, int count)
{
    long long i = thread();
    if (i >= volume(box)) return;
    long long source = place(i, box, start, buffer);
    for (int c = 0; c < count; ++c) {
        float *sum = total + c * volume(buffer) + source;
        margins[c * volume(box) + i] = norm[source] > 0.0f ? *sum / norm[source] : 0.0f;
        *sum = 0.0f;
    }
    norm[source] = 0.0f;
}

// Sliding windows on the GPU: cut a window, add its weighted logits, finish a slab, restore it to the file's grid.
//
// Arrays are in file order (X, Y, Z), Z fastest, as in numpy. Buffers that hold only a part of the volume are rings
// along the slab axis: row r lies at r modulo the ring's length, which is what `wrap` does.
//
// Every operation is written as numpy does it (no fused multiply-add: compiled with --fmad=false), and windows of a slab
// arrive one after the other, so that sums, logits and labels equal those of the CPU bit for bit.

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

// total[c] += logits[channels[c]] * weight and norm += weight, over one window. A logit that is not finite sets *bad.
extern "C" __global__ void accumulate(const float *logits, const float *weights, const int *channels, float *total,
                                      float *norm, int *bad, Shape buffer, Shape start, Shape box, int count)
{
    long long i = thread();
    if (i >= volume(box)) return;
    long long target = place(i, box, start, buffer);
    float weight = weights[i];
    for (int c = 0; c < count; ++c) {
        float logit = logits[channels[c] * volume(box) + i];
        if (!(fabsf(logit) <= 3.402823466e+38f)) *bad = 1;
        total[c * volume(buffer) + target] += logit * weight;
    }
    norm[target] += weight;
}

// Label of the largest positive logit, 0 where none is positive, the first of equals; clears what it read.
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
        float logit = *sum / norm[source];  // 0 / 0, where no window lies, is not larger than anything
        if (logit > best) {
            best = logit;
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

// logits[c] = total[c] / norm over finished rows, zero where no window lies; clears what it read. `logits` is a ring too,
// `room`, in which the rows begin at `target`. It may be `total` itself: sums then become logits where they are, and those
// become zero when this runs over them again, since their weights are zero by then.
extern "C" __global__ void finish_logits(float *total, float *norm, float *logits, Shape buffer, Shape start,
                                          Shape box, Shape room, Shape target, int count)
{
    long long i = thread();
    if (i >= volume(box)) return;
    long long source = place(i, box, start, buffer);
    long long goal = place(i, box, target, room);
    float weight = norm[source];
    norm[source] = 0.0f;
    for (int c = 0; c < count; ++c) {
        float *sum = total + c * volume(buffer) + source;
        float logit = weight > 0.0f ? *sum / weight : 0.0f;
        *sum = 0.0f;
        logits[c * volume(room) + goal] = logit;
    }
}

// Restoring: labels of a box of the file's grid from logits that are interpolated at each of its voxels and then compared.

__device__ inline int pick(int axis, int x, int y, int z) { return axis == 0 ? x : axis == 1 ? y : z; }

__device__ inline float between(float before, float after, float share) { return (after - before) * share + before; }

__device__ inline void store(void *labels, long long i, int label, int wide)
{
    if (wide) ((unsigned short *)labels)[i] = (unsigned short)label;
    else ((unsigned char *)labels)[i] = (unsigned char)label;
}

// Grids of the same directions. Each voxel of each axis has the offsets of the two logits that it lies between, and its
// distance from the first; the tables of x, y and z follow each other, each as long as that axis of the file's grid.
// Interpolates along the axes `order.x`, `order.y`, `order.z`, one after the other, rounding after every step.
extern "C" __global__ void restore_axes(const float *logits, const long long *low, const long long *high,
                                        const float *share, const int *values, void *labels, Shape buffer, Shape start,
                                        Shape box, Shape file, Shape order, int count, int wide)
{
    long long i = thread();
    if (i >= volume(box)) return;
    int z = start.z + (int)(i % box.z) + file.x + file.y;
    int y = start.y + (int)(i / box.z % box.y) + file.x;
    int x = start.x + (int)(i / box.z / box.y);
    int a = pick(order.x, x, y, z), b = pick(order.y, x, y, z), c = pick(order.z, x, y, z);
    long long corner00 = low[b] + low[c], corner01 = low[b] + high[c];
    long long corner10 = high[b] + low[c], corner11 = high[b] + high[c];
    float best = 0.0f;
    int label = 0;
    for (int channel = 0; channel < count; ++channel) {
        const float *lower = logits + channel * volume(buffer) + low[a];
        const float *upper = logits + channel * volume(buffer) + high[a];
        float first = between(between(lower[corner00], upper[corner00], share[a]),
                              between(lower[corner10], upper[corner10], share[a]), share[b]);
        float second = between(between(lower[corner01], upper[corner01], share[a]),
                               between(lower[corner11], upper[corner11], share[a]), share[b]);
        float logit = between(first, second, share[c]);
        if (logit > best) {
            best = logit;
            label = values[channel];
        }
    }
    store(labels, i, label, wide);
}

// Coordinate on an axis of `size` voxels, whose edges are -1 and 1 in `unit`; clipped to the first and last voxel.
__device__ inline double voxel(double unit, int size)
{
    double at = ((unit + 1.0) * size - 1.0) / 2.0;
    return at < 0.0 ? 0.0 : at > size - 1.0 ? size - 1.0 : at;
}

// Grids of different directions: each voxel has coordinates of its own. `unit` holds the voxels' places on x, y and z of the
// file's grid, from -1 to 1; `matrix` (3, 4) leads to those on the network's `grid`, which begins at `pad` on the padded one.
// A voxel whose upper neighbour along `axis` is not one of `rows` rows from `first` on belongs to other rows: 0.
extern "C" __global__ void restore_sheared(const float *logits, const double *unit, const double *matrix,
                                           const int *values, void *labels, Shape buffer, Shape start, Shape box,
                                           Shape file, Shape grid, Shape pad, int axis, int first, int rows, int count,
                                           int wide)
{
    long long i = thread();
    if (i >= volume(box)) return;
    double z = unit[start.z + i % box.z + file.x + file.y];
    double y = unit[start.y + i / box.z % box.y + file.x];
    double x = unit[start.x + i / box.z / box.y];
    long long stride[3] = {(long long)buffer.y * buffer.z, buffer.z, 1}, offset[3][2];
    float share[3];
    bool mine = true;
    for (int a = 0; a < 3; ++a) {
        const double *m = matrix + 4 * a;
        int size = pick(a, grid.x, grid.y, grid.z), from = pick(a, pad.x, pad.y, pad.z);
        int length = pick(a, buffer.x, buffer.y, buffer.z);
        double at = voxel(z * m[2] + y * m[1] + x * m[0] + m[3], size);
        int low = (int)at, high = low + 1 < size ? low + 1 : low;  // `at` is not negative
        share[a] = (float)(at - low);
        if (a == axis) mine = high + from >= first && high + from < first + rows;
        offset[a][0] = (low + from) % length * stride[a];
        offset[a][1] = (high + from) % length * stride[a];
    }
    float best = 0.0f;
    int label = 0;
    for (int channel = 0; mine && channel < count; ++channel) {
        float logit = 0.0f;
        for (int corner = 0; corner < 8; ++corner) {
            int p = corner >> 2, q = corner >> 1 & 1, r = corner & 1;
            float part = p ? share[0] : 1.0f - share[0];
            part *= q ? share[1] : 1.0f - share[1];
            part *= r ? share[2] : 1.0f - share[2];
            logit += part * logits[channel * volume(buffer) + offset[0][p] + offset[1][q] + offset[2][r]];
        }
        if (logit > best) {
            best = logit;
            label = values[channel];
        }
    }
    store(labels, i, label, wide);
}

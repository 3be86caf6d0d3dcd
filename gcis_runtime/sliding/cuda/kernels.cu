// Kernels for sliding windows: cut a window, accumulate its weighted logits, finish a slab, label the native grid.
//
// Arrays are (X, Y, Z) with Z fastest, as in NumPy. Buffers that hold only a part of the volume are ring buffers along
// the slab axis: plane p has the index p modulo the length of the ring buffer (`wrap`).
//
// Every operation follows the arithmetic of NumPy (no fused multiply-add: compiled with --fmad=false), and the windows of
// a slab are added one after the other, so that sums, logits and labels equal those of the CPU bit for bit.

struct Shape { int x, y, z; };  // three consecutive int32, as passed from NumPy

__device__ inline long long volume(Shape s) { return (long long)s.x * s.y * s.z; }

__device__ inline int wrap(int index, int length) { return index < length ? index : index - length; }

// Offset in a ring buffer of voxel `i` (linear index) of a box that starts at `start`.
__device__ inline long long place(long long i, Shape box, Shape start, Shape ring)
{
    int z = (int)(i % box.z);
    int y = (int)(i / box.z % box.y);
    int x = (int)(i / box.z / box.y);
    x = wrap(start.x + x, ring.x);
    y = wrap(start.y + y, ring.y);
    z = wrap(start.z + z, ring.z);
    return ((long long)x * ring.y + y) * ring.z + z;
}

__device__ inline long long thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

// image at (start + i) = planes[i]: copy contiguous planes into the ring buffer of the image.
extern "C" __global__ void scatter(const float *planes, float *image, Shape ring, Shape start, Shape box)
{
    long long i = thread();
    if (i < volume(box)) image[place(i, box, start, ring)] = planes[i];
}

// Smallest and largest bit pattern of each window as integers: equal if and only if the window is constant. One block
// per window. `starts` holds x, y, z of each window; `least` is initialised with all bits set, `most` with zeros.
extern "C" __global__ void value_range(const float *image, const int *starts, unsigned int *least, unsigned int *most,
                                       Shape ring, Shape box)
{
    Shape start = {starts[3 * blockIdx.x], starts[3 * blockIdx.x + 1], starts[3 * blockIdx.x + 2]};
    unsigned int low = 0xffffffffu, high = 0u;
    for (long long i = threadIdx.x; i < volume(box); i += blockDim.x) {
        unsigned int value = __float_as_uint(image[place(i, box, start, ring)]);
        low = min(low, value);
        high = max(high, value);
    }
    atomicMin(least + blockIdx.x, low);
    atomicMax(most + blockIdx.x, high);
}

// window[i] = image at (start + i).
extern "C" __global__ void crop(const float *image, float *window, Shape ring, Shape start, Shape box)
{
    long long i = thread();
    if (i < volume(box)) window[i] = image[place(i, box, start, ring)];
}

// total[c] += logits[channels[c]] * weight and norm += weight, over one window. Sets *not_finite if a logit is not finite.
extern "C" __global__ void accumulate(const float *logits, const float *weights, const int *channels, float *total,
                                      float *norm, int *not_finite, Shape ring, Shape start, Shape box, int count)
{
    long long i = thread();
    if (i >= volume(box)) return;
    long long target = place(i, box, start, ring);
    float weight = weights[i];
    for (int c = 0; c < count; ++c) {
        float logit = logits[channels[c] * volume(box) + i];
        if (!(fabsf(logit) <= 3.402823466e+38f)) *not_finite = 1;
        total[c * volume(ring) + target] += logit * weight;
    }
    norm[target] += weight;
}

// Label of the largest positive logit (the first of equal ones), or 0 if none is positive. Clears the sums.
template <typename Label>
__device__ inline void finish(float *total, float *norm, const int *values, Label *labels, Shape ring, Shape start,
                              Shape box, int count)
{
    long long i = thread();
    if (i >= volume(box)) return;
    long long source = place(i, box, start, ring);
    float best = 0.0f;
    int label = 0;
    for (int c = 0; c < count; ++c) {
        float *sum = total + c * volume(ring) + source;
        float logit = *sum / norm[source];  // NaN (0 / 0) where no window lies: comparisons are false
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
                                          Shape ring, Shape start, Shape box, int count)
{
    finish(total, norm, values, labels, ring, start, box, count);
}

extern "C" __global__ void finish_labels16(float *total, float *norm, const int *values, unsigned short *labels,
                                           Shape ring, Shape start, Shape box, int count)
{
    finish(total, norm, values, labels, ring, start, box, count);
}

// logits[c] = total[c] / norm over finished planes, or zero where no window lies. Clears the sums. `logits` is a ring
// buffer of shape `target_ring`, in which the box starts at `target`. It may be `total` itself: sums are then converted to
// logits in place, and running the kernel again clears the logits, because their weights are zero by then.
extern "C" __global__ void finish_logits(float *total, float *norm, float *logits, Shape ring, Shape start,
                                          Shape box, Shape target_ring, Shape target, int count)
{
    long long i = thread();
    if (i >= volume(box)) return;
    long long source = place(i, box, start, ring);
    long long goal = place(i, box, target, target_ring);
    float weight = norm[source];
    norm[source] = 0.0f;
    for (int c = 0; c < count; ++c) {
        float *sum = total + c * volume(ring) + source;
        float logit = weight > 0.0f ? *sum / weight : 0.0f;
        *sum = 0.0f;
        logits[c * volume(target_ring) + goal] = logit;
    }
}

// Labels on the native grid: logits are interpolated at each voxel of a box of the file grid and then compared.

__device__ inline int component(int axis, int x, int y, int z) { return axis == 0 ? x : axis == 1 ? y : z; }

__device__ inline float interpolate(float before, float after, float weight) { return (after - before) * weight + before; }

__device__ inline void store(void *labels, long long i, int label, int wide)
{
    if (wide) ((unsigned short *)labels)[i] = (unsigned short)label;
    else ((unsigned char *)labels)[i] = (unsigned char)label;
}

// Grids of the same directions. Each file index of an axis has the offsets of its lower and upper neighbour, and the weight
// of the upper one. The tables of x, y and z are concatenated, each as long as that axis of the file grid. Interpolates
// along the axes `order.x`, `order.y` and `order.z` in this order, and rounds after every step.
extern "C" __global__ void resample_separable(const float *logits, const long long *low, const long long *high,
                                              const float *weight, const int *values, void *labels, Shape ring, Shape start,
                                              Shape box, Shape file, Shape order, int count, int wide)
{
    long long i = thread();
    if (i >= volume(box)) return;
    int z = start.z + (int)(i % box.z) + file.x + file.y;
    int y = start.y + (int)(i / box.z % box.y) + file.x;
    int x = start.x + (int)(i / box.z / box.y);
    int a = component(order.x, x, y, z), b = component(order.y, x, y, z), c = component(order.z, x, y, z);
    long long corner00 = low[b] + low[c], corner01 = low[b] + high[c];
    long long corner10 = high[b] + low[c], corner11 = high[b] + high[c];
    float best = 0.0f;
    int label = 0;
    for (int channel = 0; channel < count; ++channel) {
        const float *lower = logits + channel * volume(ring) + low[a];
        const float *upper = logits + channel * volume(ring) + high[a];
        float first = interpolate(interpolate(lower[corner00], upper[corner00], weight[a]),
                              interpolate(lower[corner10], upper[corner10], weight[a]), weight[b]);
        float second = interpolate(interpolate(lower[corner01], upper[corner01], weight[a]),
                               interpolate(lower[corner11], upper[corner11], weight[a]), weight[b]);
        float logit = interpolate(first, second, weight[c]);
        if (logit > best) {
            best = logit;
            label = values[channel];
        }
    }
    store(labels, i, label, wide);
}

// Voxel coordinate of the normalised coordinate `unit` (edges at -1 and 1) on an axis of `size` voxels, clipped to the axis.
__device__ inline double voxel(double unit, int size)
{
    double at = ((unit + 1.0) * size - 1.0) / 2.0;
    return at < 0.0 ? 0.0 : at > size - 1.0 ? size - 1.0 : at;
}

// Grids of any directions: each voxel has its own coordinates. `unit` holds the normalised coordinates of the file grid
// along x, y and z; `matrix` (3, 4) maps them to those of the network `grid`, which starts at `pad` on the padded grid. A voxel
// whose upper neighbour along `axis` is not one of `planes` planes from `first` on is labelled with other planes: 0 here.
extern "C" __global__ void resample_sheared(const float *logits, const double *unit, const double *matrix,
                                            const int *values, void *labels, Shape ring, Shape start, Shape box,
                                            Shape file, Shape grid, Shape pad, int axis, int first, int planes, int count,
                                            int wide)
{
    long long i = thread();
    if (i >= volume(box)) return;
    double z = unit[start.z + i % box.z + file.x + file.y];
    double y = unit[start.y + i / box.z % box.y + file.x];
    double x = unit[start.x + i / box.z / box.y];
    long long stride[3] = {(long long)ring.y * ring.z, ring.z, 1}, offset[3][2];
    float weight[3];
    bool inside = true;
    for (int a = 0; a < 3; ++a) {
        const double *m = matrix + 4 * a;
        int size = component(a, grid.x, grid.y, grid.z), from = component(a, pad.x, pad.y, pad.z);
        int length = component(a, ring.x, ring.y, ring.z);
        double at = voxel(z * m[2] + y * m[1] + x * m[0] + m[3], size);
        int low = (int)at, high = low + 1 < size ? low + 1 : low;  // `at` is not negative
        weight[a] = (float)(at - low);
        if (a == axis) inside = high + from >= first && high + from < first + planes;
        offset[a][0] = (low + from) % length * stride[a];
        offset[a][1] = (high + from) % length * stride[a];
    }
    float best = 0.0f;
    int label = 0;
    for (int channel = 0; inside && channel < count; ++channel) {
        float logit = 0.0f;
        for (int corner = 0; corner < 8; ++corner) {
            int p = corner >> 2, q = corner >> 1 & 1, r = corner & 1;
            float part = p ? weight[0] : 1.0f - weight[0];
            part *= q ? weight[1] : 1.0f - weight[1];
            part *= r ? weight[2] : 1.0f - weight[2];
            logit += part * logits[channel * volume(ring) + offset[0][p] + offset[1][q] + offset[2][r]];
        }
        if (logit > best) {
            best = logit;
            label = values[channel];
        }
    }
    store(labels, i, label, wide);
}

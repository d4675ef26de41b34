/* Stochastic gradient descent for fully connected ReLU networks on small batches, in float32 with AVX-512.
 *
 * A step of such a network is three products with few rows: too small for a library of linear algebra, which spends as
 * long on preparing as on computing. Here a copy of the weights stays in the second-level cache for the whole training
 * of a client, padded with zeros to whole vectors, and the gradient is added to it as it is computed. Tiles are of
 * UNITS units by ROWS rows of the batch: their sums fill the registers.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f")))
#define INLINE static inline __attribute__((always_inline, target("avx512f")))

enum { LANES = 16, UNITS = 4, ROWS = 5 };

typedef struct {
    size_t inputs, outputs; /* padded */
    float *weights, *bias;  /* (outputs, inputs), (outputs) */
    float *a, *delta;       /* (rows, inputs), (rows, outputs) */
} layer;

static size_t padded(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* z = a W^T + bias, and 0 in place of what is negative if `relu`. */
INLINE void forward(const layer *l, size_t rows, float *z, int relu) {
    const size_t n = l->inputs;
    for (size_t i = 0; i < l->outputs; i += UNITS)
        for (size_t r = 0; r < rows; r += ROWS) {
            const float *w = l->weights + i * n, *a = l->a + r * n;
            __m512 sum[UNITS][ROWS];
            for (int u = 0; u < UNITS; u++)
                for (int s = 0; s < ROWS; s++) sum[u][s] = _mm512_setzero_ps();
            for (size_t j = 0; j < n; j += LANES) {
                __m512 weight[UNITS];
                for (int u = 0; u < UNITS; u++) weight[u] = _mm512_load_ps(w + (size_t)u * n + j);
                for (int s = 0; s < ROWS; s++) {
                    const __m512 input = _mm512_load_ps(a + (size_t)s * n + j);
                    for (int u = 0; u < UNITS; u++) sum[u][s] = _mm512_fmadd_ps(weight[u], input, sum[u][s]);
                }
            }
            for (int s = 0; s < ROWS; s++)
                for (int u = 0; u < UNITS; u++) {
                    const float value = _mm512_reduce_add_ps(sum[u][s]) + l->bias[i + u];
                    z[(r + s) * l->outputs + i + u] = relu && !(value > 0) ? (value != value ? value : 0) : value;
                }
        }
}

/* below = delta W where the ReLU of the layer below let something through (a > 0), else 0. */
INLINE void backward(const layer *l, size_t rows, float *below) {
    const size_t n = l->inputs, m = l->outputs;
    for (size_t r = 0; r < rows; r += ROWS)
        for (size_t j = 0; j < n; j += LANES) {
            __m512 sum[ROWS];
            for (int s = 0; s < ROWS; s++) sum[s] = _mm512_setzero_ps();
            for (size_t i = 0; i < m; i++) {
                const __m512 weight = _mm512_load_ps(l->weights + i * n + j);
                for (int s = 0; s < ROWS; s++)
                    sum[s] = _mm512_fmadd_ps(_mm512_set1_ps(l->delta[(r + s) * m + i]), weight, sum[s]);
            }
            for (int s = 0; s < ROWS; s++) {
                const size_t at = (r + s) * n + j;
                const __mmask16 through =
                    _mm512_cmp_ps_mask(_mm512_load_ps(l->a + at), _mm512_setzero_ps(), _CMP_NLE_UQ);
                _mm512_store_ps(below + at, _mm512_maskz_mov_ps(through, sum[s]));
            }
        }
}

/* W -= rate delta^T a, bias -= rate delta^T 1. */
INLINE void update(const layer *l, size_t rows, float rate) {
    const size_t n = l->inputs, m = l->outputs;
    for (size_t i = 0; i < m; i += UNITS)
        for (size_t r = 0; r < rows; r += ROWS) {
            float *w = l->weights + i * n;
            const float *a = l->a + r * n;
            __m512 factor[UNITS][ROWS];
            for (int u = 0; u < UNITS; u++)
                for (int s = 0; s < ROWS; s++) {
                    const float step = -rate * l->delta[(r + s) * m + i + u];
                    l->bias[i + u] += step;
                    factor[u][s] = _mm512_set1_ps(step);
                }
            for (size_t j = 0; j < n; j += LANES) {
                __m512 weight[UNITS];
                for (int u = 0; u < UNITS; u++) weight[u] = _mm512_load_ps(w + (size_t)u * n + j);
                for (int s = 0; s < ROWS; s++) {
                    const __m512 input = _mm512_load_ps(a + (size_t)s * n + j);
                    for (int u = 0; u < UNITS; u++) weight[u] = _mm512_fmadd_ps(factor[u][s], input, weight[u]);
                }
                for (int u = 0; u < UNITS; u++) _mm512_store_ps(w + (size_t)u * n + j, weight[u]);
            }
        }
}

INLINE float dot(const float *a, const float *b, size_t n) {
    __m512 sum = _mm512_setzero_ps();
    for (size_t j = 0; j < n; j += LANES) sum = _mm512_fmadd_ps(_mm512_load_ps(a + j), _mm512_load_ps(b + j), sum);
    return _mm512_reduce_add_ps(sum);
}

/* Of the gradient of one layer, summed over the batch: sum_ij (a_i . a_j + 1)(delta_i . delta_j). */
INLINE double squared_norm(const layer *l, size_t rows) {
    double sum = 0;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j <= i; j++) {
            const double both = (1.0 + dot(l->a + i * l->inputs, l->a + j * l->inputs, l->inputs)) *
                                dot(l->delta + i * l->outputs, l->delta + j * l->outputs, l->outputs);
            sum += i == j ? both : 2 * both;
        }
    return sum;
}

/* delta = softmax(z) - the own class of the row, in place. */
static void differentiate(float *z, size_t classes, int64_t label) {
    float largest = z[0], sum = 0;
    for (size_t c = 1; c < classes; c++)
        if (!(z[c] <= largest)) largest = z[c];
    for (size_t c = 0; c < classes; c++) sum += z[c] = expf(z[c] - largest);
    for (size_t c = 0; c < classes; c++) z[c] /= sum;
    z[label] -= 1;
}

/* One step on `rows` rows, which stand in the first layer's `a`. */
AVX512 static void step(layer *l, size_t layers, size_t rows, size_t classes, const int64_t *labels,
                        const int64_t *order, float rate, float clip) {
    const size_t all = padded(rows, ROWS);
    for (size_t k = 0; k + 1 < layers; k++) forward(l + k, all, l[k + 1].a, 1);
    layer *top = l + layers - 1;
    forward(top, all, top->delta, 0);
    for (size_t r = 0; r < rows; r++) differentiate(top->delta + r * top->outputs, classes, labels[order[r]]);
    memset(top->delta + rows * top->outputs, 0, (all - rows) * top->outputs * sizeof(float));
    for (size_t k = layers - 1; k > 0; k--) backward(l + k, all, l[k - 1].delta);
    rate /= (float)rows;
    if (clip < INFINITY) {
        double squares = 0;
        for (size_t k = 0; k < layers; k++) squares += squared_norm(l + k, rows);
        const double norm = sqrt(squares) / (double)rows;
        if (norm > clip) rate *= (float)(clip / norm);
    }
    for (size_t k = 0; k < layers; k++) update(l + k, all, rate);
}

int fedmpi_perceptron_runs(void) { return __builtin_cpu_supports("avx512f") != 0; }

int fedmpi_perceptron(size_t layers, const size_t *sizes, float *parameters, const float *x, const int64_t *labels,
                      const int64_t *order, size_t rows, size_t epochs, size_t batch, float rate, float clip) {
    const size_t most = padded(batch < rows ? batch : rows, ROWS);
    size_t needed = 0;
    for (size_t k = 0; k < layers; k++) {
        const size_t n = padded(sizes[k], LANES), m = padded(sizes[k + 1], LANES);
        needed += m * n + m + padded(most * n, LANES) + padded(most * m, LANES);
    }
    float *memory = aligned_alloc(LANES * sizeof(float), needed * sizeof(float)), *next = memory;
    layer *l = malloc(layers * sizeof(layer));
    if (!memory || !l) {
        free(memory);
        free(l);
        return 0;
    }
    memset(memory, 0, needed * sizeof(float));
    const float *given = parameters;
    for (size_t k = 0; k < layers; k++) {
        const size_t n = padded(sizes[k], LANES), m = padded(sizes[k + 1], LANES);
        l[k] = (layer){.inputs = n, .outputs = m, .weights = next, .bias = next + m * n, .a = next + m * n + m};
        l[k].delta = l[k].a + padded(most * n, LANES);
        next = l[k].delta + padded(most * m, LANES);
        for (size_t i = 0; i < sizes[k + 1]; i++, given += sizes[k])
            memcpy(l[k].weights + i * n, given, sizes[k] * sizeof(float));
        memcpy(l[k].bias, given, sizes[k + 1] * sizeof(float));
        given += sizes[k + 1];
    }
    for (size_t e = 0; e < epochs; e++, order += rows)
        for (size_t start = 0; start < rows; start += batch) {
            const size_t here = rows - start < batch ? rows - start : batch;
            for (size_t r = 0; r < here; r++)
                memcpy(l->a + r * l->inputs, x + (size_t)order[start + r] * sizes[0], sizes[0] * sizeof(float));
            memset(l->a + here * l->inputs, 0, (padded(here, ROWS) - here) * l->inputs * sizeof(float));
            step(l, layers, here, sizes[layers], labels, order + start, rate, clip);
        }
    float *taken = parameters;
    for (size_t k = 0; k < layers; k++) {
        for (size_t i = 0; i < sizes[k + 1]; i++, taken += sizes[k])
            memcpy(taken, l[k].weights + i * l[k].inputs, sizes[k] * sizeof(float));
        memcpy(taken, l[k].bias, sizes[k + 1] * sizeof(float));
        taken += sizes[k + 1];
    }
    free(memory);
    free(l);
    return 1;
}

#else

int fedmpi_perceptron_runs(void) { return 0; }

int fedmpi_perceptron(size_t layers, const size_t *sizes, float *parameters, const float *x, const int64_t *labels,
                      const int64_t *order, size_t rows, size_t epochs, size_t batch, float rate, float clip) {
    (void)layers, (void)sizes, (void)parameters, (void)x, (void)labels, (void)order, (void)rows, (void)epochs;
    (void)batch, (void)rate, (void)clip;
    return 0;
}

#endif

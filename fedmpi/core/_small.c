/* Products with a matrix of integers of 8 bits. */
#include <stddef.h>
#include <stdint.h>

#include "_clones.h"
#include "_kernels.h"

enum { COLUMNS = 512, ROWS = 8, CACHED_ROWS = 16 };

/* <x, v>. Compilers make one instruction of two products of 16 bits and their sum. */
INLINE int64_t dot(const int8_t *x, const int16_t *v, size_t n) {
    int64_t total = 0;
    for (size_t start = 0; start < n; start += COLUMNS) {
        const size_t end = n - start < COLUMNS ? n : start + COLUMNS;
        int32_t sum = 0; /* of 2^9 products of at most 2^21 */
        for (size_t j = start; j < end; j++) sum += x[j] * v[j];
        total += sum;
    }
    return total;
}

CLONES void fedmpi_small_product(const int8_t *x, size_t rows, size_t d, size_t n, const int16_t *v, size_t vectors,
                                 int64_t *z) {
    for (size_t first = 0; first < rows; first += CACHED_ROWS) {
        const size_t end = rows - first < CACHED_ROWS ? rows : first + CACHED_ROWS;
        for (size_t o = 0; o < vectors; o++)
            for (size_t i = first; i < end; i++) z[o * rows + i] = dot(x + i * d, v + o * n, n);
    }
}

CLONES void fedmpi_small_transposed_product(const int8_t *x, size_t rows, size_t d, const float *s, float *g) {
    size_t i = 0;
    for (; i + ROWS <= rows; i += ROWS, x += ROWS * d, s += ROWS)
        for (size_t j = 0; j < d; j++)
            g[j] += ((x[j] * s[0] + x[d + j] * s[1]) + (x[2 * d + j] * s[2] + x[3 * d + j] * s[3])) +
                    ((x[4 * d + j] * s[4] + x[5 * d + j] * s[5]) + (x[6 * d + j] * s[6] + x[7 * d + j] * s[7]));
    for (; i < rows; i++, x += d, s++)
        for (size_t j = 0; j < d; j++) g[j] += x[j] * s[0];
}

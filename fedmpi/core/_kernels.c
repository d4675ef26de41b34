/* Exact linear algebra modulo p = 2^b - c (Mersenne-like), for arrays of uint32 in [0, p).
 *
 * Products are added up in uint64 and reduced only when the next one might not fit. A reduction folds:
 * x = hi * 2^b + lo is congruent to hi * c + lo, so no division is needed. PrimeField admits only primes for
 * which three folds bring every uint64 below 2p, and computes max_terms, the number of products that may be
 * added to a value below p. Where max_terms is small (p near 2^31) each product is folded once before it is
 * added ("wide" primes): the loops below are then compiled a second time with WIDE = 1.
 *
 * Nothing here reads a secret-dependent address or branches on a secret.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "_clones.h"
#include "_kernels.h"

enum { ROWS = 8, LINE = 16, TILE = 512, FEW = 4, WIDE_TERMS = 1 << 26 };

INLINE uint64_t fold(uint64_t x, const fedmpi_prime *f) {
    return (x & (((uint64_t)1 << f->bits) - 1)) + (x >> f->bits) * f->c;
}

INLINE uint64_t reduce(uint64_t x, const fedmpi_prime *f) {
    x = fold(fold(fold(x, f), f), f);
    return x >= f->p ? x - f->p : x;
}

INLINE uint64_t product(uint32_t a, uint32_t b, int wide, const fedmpi_prime *f) {
    uint64_t x = (uint64_t)a * b;
    return wide ? fold(x, f) : x;
}

INLINE size_t terms(int wide, const fedmpi_prime *f) { return wide ? (size_t)WIDE_TERMS : f->max_terms; }

/* The same for a sum of at most small_terms products. */
INLINE uint64_t reduce_small(uint64_t x, const fedmpi_prime *f) {
    x = fold(fold(x, f), f);
    return x >= f->p ? x - f->p : x;
}

/* z[k] = <x_k, w> mod p for ROWS rows at once, so that each w_j is loaded once. */
INLINE void dot_rows(const uint32_t *x, size_t d, const uint32_t *w, uint32_t *z, int wide, const fedmpi_prime *f) {
    uint64_t total[ROWS] = {0};
    const size_t step = terms(wide, f);
    for (size_t start = 0; start < d; start += step) {
        const size_t end = d - start < step ? d : start + step;
        uint64_t a0 = 0, a1 = 0, a2 = 0, a3 = 0, a4 = 0, a5 = 0, a6 = 0, a7 = 0;
        for (size_t j = start; j < end; j++) {
            const uint32_t v = w[j];
            a0 += product(x[j], v, wide, f);
            a1 += product(x[d + j], v, wide, f);
            a2 += product(x[2 * d + j], v, wide, f);
            a3 += product(x[3 * d + j], v, wide, f);
            a4 += product(x[4 * d + j], v, wide, f);
            a5 += product(x[5 * d + j], v, wide, f);
            a6 += product(x[6 * d + j], v, wide, f);
            a7 += product(x[7 * d + j], v, wide, f);
        }
        const uint64_t a[ROWS] = {a0, a1, a2, a3, a4, a5, a6, a7};
        for (int k = 0; k < ROWS; k++) total[k] = reduce(total[k] + reduce(a[k], f), f);
    }
    for (int k = 0; k < ROWS; k++) z[k] = (uint32_t)total[k];
}

/* g += sum_k s_k x_k over columns start ... end of ROWS rows. */
INLINE void add_columns(const uint32_t *x, size_t d, size_t start, size_t end, const uint32_t *s, uint64_t *g, int wide,
                        const fedmpi_prime *f) {
    const uint32_t s0 = s[0], s1 = s[1], s2 = s[2], s3 = s[3], s4 = s[4], s5 = s[5], s6 = s[6], s7 = s[7];
    for (size_t j = start; j < end; j++)
        g[j] += product(x[j], s0, wide, f) + product(x[d + j], s1, wide, f) + product(x[2 * d + j], s2, wide, f) +
                product(x[3 * d + j], s3, wide, f) + product(x[4 * d + j], s4, wide, f) +
                product(x[5 * d + j], s5, wide, f) + product(x[6 * d + j], s6, wide, f) +
                product(x[7 * d + j], s7, wide, f);
}

/* g += sum_k s_k x_k for ROWS rows. They are in the cache already, so memory would be idle: fetch the next ROWS. */
INLINE void add_rows(const uint32_t *x, size_t d, const uint32_t *s, uint64_t *g, int wide, const fedmpi_prime *f) {
    size_t j = 0;
    for (; j + LINE <= d; j += LINE) {
        for (size_t k = 0; k < ROWS; k++) __builtin_prefetch(x + (ROWS + k) * d + j, 0, 2);
        add_columns(x, d, j, j + LINE, s, g, wide, f);
    }
    add_columns(x, d, j, d, s, g, wide, f);
}

INLINE void reduce_all(uint64_t *g, size_t n, const fedmpi_prime *f) {
    for (size_t j = 0; j < n; j++) g[j] = reduce(g[j], f);
}

/* s = c_0 + c_1 z_1 + c_2 z_1 z_2 + ... for ROWS rows; z is (degree, ROWS). */
INLINE void polynomial(const uint32_t *z, size_t degree, const uint32_t *coefficients, uint32_t *s,
                       const fedmpi_prime *f) {
    for (int k = 0; k < ROWS; k++) {
        uint64_t value = coefficients[0], power = 1;
        for (size_t i = 0; i < degree; i++) {
            power = reduce(power * z[i * ROWS + k], f);
            value = reduce(value + reduce(power * coefficients[i + 1], f), f);
        }
        s[k] = (uint32_t)value;
    }
}

/* What is summed over the rows: S X with S given, or with S = s(X W) computed on the way. */
typedef struct {
    const uint32_t *x, *w, *coefficients, *s; /* s is NULL, or w and coefficients are */
    size_t rows, d, outputs, degree;
    uint64_t *g;
    uint32_t *padded, *z;
} row_sum;

INLINE void sum_rows(const row_sum *q, const uint32_t *x, size_t first, size_t count, int wide, const fedmpi_prime *f) {
    uint32_t s[ROWS] = {0};
    for (size_t o = 0; o < q->outputs; o++) {
        if (q->s) {
            memcpy(s, q->s + o * q->rows + first, count * sizeof *s);
        } else {
            for (size_t i = 0; i < q->degree; i++)
                dot_rows(x, q->d, q->w + (o * q->degree + i) * q->d, q->z + i * ROWS, wide, f);
            polynomial(q->z, q->degree, q->coefficients, s, f);
        }
        add_rows(x, q->d, s, q->g + o * q->d, wide, f);
    }
}

INLINE void sum_all_rows(const row_sum *q, uint32_t *out, int wide, const fedmpi_prime *f) {
    const size_t full = q->rows - q->rows % ROWS, capacity = terms(wide, f) / ROWS * ROWS, n = q->outputs * q->d;
    size_t room = capacity;
    for (size_t i = 0; i < full; i += ROWS, room -= ROWS) {
        if (room < ROWS) {
            reduce_all(q->g, n, f);
            room = capacity;
        }
        sum_rows(q, q->x + i * q->d, i, ROWS, wide, f);
    }
    reduce_all(q->g, n, f);
    if (full < q->rows) { /* rows of zeros change no sum over rows */
        memset(q->padded, 0, ROWS * q->d * sizeof *q->padded);
        memcpy(q->padded, q->x + full * q->d, (q->rows - full) * q->d * sizeof *q->padded);
        sum_rows(q, q->padded, full, q->rows - full, wide, f);
        reduce_all(q->g, n, f);
    }
    for (size_t j = 0; j < n; j++) out[j] = (uint32_t)q->g[j];
}

CLONES void fedmpi_gradient(const uint32_t *x, size_t rows, size_t d, const uint32_t *w, size_t outputs,
                            size_t degree, const uint32_t *coefficients, uint64_t *g, uint32_t *padded, uint32_t *z,
                            uint32_t *out, const fedmpi_prime *f) {
    const row_sum q = {x, w, coefficients, NULL, rows, d, outputs, degree, g, padded, z};
    if (f->max_terms)
        sum_all_rows(&q, out, 0, f);
    else
        sum_all_rows(&q, out, 1, f);
}

CLONES void fedmpi_transposed_product(const uint32_t *x, size_t rows, size_t d, const uint32_t *s, size_t outputs,
                                      uint64_t *g, uint32_t *padded, uint32_t *out, const fedmpi_prime *f) {
    const row_sum q = {x, NULL, NULL, s, rows, d, outputs, 0, g, padded, NULL};
    if (f->max_terms)
        sum_all_rows(&q, out, 0, f);
    else
        sum_all_rows(&q, out, 1, f);
}

INLINE void product_rows(const uint32_t *x, size_t rows, size_t d, const uint32_t *w, size_t outputs, uint32_t *padded,
                         uint32_t *z, int wide, const fedmpi_prime *f) {
    for (size_t i = 0; i < rows; i += ROWS) {
        const size_t count = rows - i < ROWS ? rows - i : ROWS;
        const uint32_t *block = x + i * d;
        if (count < ROWS) {
            memset(padded, 0, ROWS * d * sizeof *padded);
            block = memcpy(padded, block, count * d * sizeof *padded);
        }
        for (size_t o = 0; o < outputs; o++) {
            uint32_t values[ROWS];
            dot_rows(block, d, w + o * d, values, wide, f);
            memcpy(z + o * rows + i, values, count * sizeof *z);
        }
    }
}

CLONES void fedmpi_product(const uint32_t *x, size_t rows, size_t d, const uint32_t *w, size_t outputs,
                           uint32_t *padded, uint32_t *z, const fedmpi_prime *f) {
    if (f->max_terms)
        product_rows(x, rows, d, w, outputs, padded, z, 0, f);
    else
        product_rows(x, rows, d, w, outputs, padded, z, 1, f);
}

/* acc (two rows) += A B over one tile of columns: each load of B serves both rows of A. */
#define TERM(n, k, b) product(b[j], a##n[k], wide, f)
#define EIGHT(n) \
    (TERM(n, k, b0) + TERM(n, k + 1, b1) + TERM(n, k + 2, b2) + TERM(n, k + 3, b3) + TERM(n, k + 4, b4) + \
     TERM(n, k + 5, b5) + TERM(n, k + 6, b6) + TERM(n, k + 7, b7))
INLINE void add_tile(const uint32_t *a0, const uint32_t *a1, const uint32_t *const *b, size_t inner, size_t first,
                     size_t width, uint64_t *restrict acc0, uint64_t *restrict acc1, int wide, const fedmpi_prime *f) {
    size_t k = 0;
    for (; k + 8 <= inner; k += 8) {
        const uint32_t *b0 = b[k] + first, *b1 = b[k + 1] + first, *b2 = b[k + 2] + first, *b3 = b[k + 3] + first,
                       *b4 = b[k + 4] + first, *b5 = b[k + 5] + first, *b6 = b[k + 6] + first,
                       *b7 = b[k + 7] + first;
        for (size_t j = 0; j < width; j++) {
            acc0[j] += EIGHT(0);
            acc1[j] += EIGHT(1);
        }
    }
    for (; k < inner; k++) {
        const uint32_t *b0 = b[k] + first;
        for (size_t j = 0; j < width; j++) {
            acc0[j] += TERM(0, k, b0);
            acc1[j] += TERM(1, k, b0);
        }
    }
}
#undef EIGHT
#undef TERM

INLINE void store_tile(uint64_t *acc, size_t width, uint32_t *restrict out, int two_folds, const fedmpi_prime *f) {
    if (two_folds)
        for (size_t j = 0; j < width; j++) out[j] = (uint32_t)reduce_small(acc[j], f);
    else
        for (size_t j = 0; j < width; j++) out[j] = (uint32_t)reduce(acc[j], f);
}

/* out = sum_k a_k b_k over one tile for at most FEW products, whose sum stays in a register. */
INLINE void few_terms(const uint32_t *a, const uint32_t *const *b, size_t inner, size_t first, size_t width,
                      uint32_t *restrict out, const fedmpi_prime *f) {
    const uint32_t *b0 = b[0] + first, *b1 = b[inner > 1 ? 1 : 0] + first, *b2 = b[inner > 2 ? 2 : 0] + first,
                   *b3 = b[inner > 3 ? 3 : 0] + first;
    const uint32_t a0 = a[0], a1 = inner > 1 ? a[1] : 0, a2 = inner > 2 ? a[2] : 0, a3 = inner > 3 ? a[3] : 0;
    const uint64_t low = ((uint64_t)1 << f->bits) - 1;
    const uint32_t bits = f->bits, c = f->c, p = f->p;
    for (size_t j = 0; j < width; j++) {
        uint64_t x = (uint64_t)a0 * b0[j];
        if (inner > 1) x += (uint64_t)a1 * b1[j];
        if (inner > 2) x += (uint64_t)a2 * b2[j];
        if (inner > 3) x += (uint64_t)a3 * b3[j];
        x = (x & low) + (uint64_t)(uint32_t)(x >> bits) * c; /* below FEW * 2^bits, as the prime is not wide */
        x = (x & low) + (uint64_t)(uint32_t)(x >> bits) * c;
        const uint32_t y = (uint32_t)x;
        out[j] = y < y - p ? y : y - p; /* below 2p: the smaller one of both, as y - p wraps around */
    }
}

INLINE void matmul_few(const uint32_t *a, size_t rows, const uint32_t *const *b, size_t inner, size_t columns,
                       uint32_t *const *out, const fedmpi_prime *f) {
    for (size_t first = 0; first < columns; first += TILE) { /* a tile of all b stays in the cache */
        const size_t width = columns - first < TILE ? columns - first : TILE;
        for (size_t n = 0; n < rows; n++) few_terms(a + n * inner, b, inner, first, width, out[n] + first, f);
    }
}

INLINE void matmul(const uint32_t *a, size_t rows, size_t inner, const uint32_t *const *b, size_t columns,
                   uint32_t *const *out, int wide, const fedmpi_prime *f) {
    uint64_t acc[2][TILE];
    const size_t step = terms(wide, f) / 8 * 8;
    const int two_folds = inner <= f->small_terms;
    for (size_t first = 0; first < columns; first += TILE) { /* a tile of all b stays in the cache */
        const size_t width = columns - first < TILE ? columns - first : TILE;
        for (size_t n = 0; n < rows; n += 2) {
            const size_t next = n + 1 < rows ? n + 1 : n; /* of an odd number, the last row is done twice */
            memset(acc, 0, sizeof acc);
            for (size_t k = 0; k < inner; k += step) {
                const size_t count = inner - k < step ? inner - k : step;
                if (k) {
                    reduce_all(acc[0], width, f);
                    reduce_all(acc[1], width, f);
                }
                add_tile(a + n * inner + k, a + next * inner + k, b + k, count, first, width, acc[0], acc[1], wide, f);
            }
            store_tile(acc[0], width, out[n] + first, two_folds, f);
            store_tile(acc[1], width, out[next] + first, two_folds, f);
        }
    }
}

CLONES void fedmpi_matmul(const uint32_t *a, size_t rows, size_t inner, const uint32_t *const *b, size_t columns,
                          uint32_t *const *out, const fedmpi_prime *f) {
    if (f->max_terms && inner <= FEW && inner <= f->small_terms)
        switch (inner) { /* one loop for each number of products */
            case 1: matmul_few(a, rows, b, 1, columns, out, f); break;
            case 2: matmul_few(a, rows, b, 2, columns, out, f); break;
            case 3: matmul_few(a, rows, b, 3, columns, out, f); break;
            default: matmul_few(a, rows, b, 4, columns, out, f);
        }
    else if (f->max_terms)
        matmul(a, rows, inner, b, columns, out, 0, f);
    else
        matmul(a, rows, inner, b, columns, out, 1, f);
}

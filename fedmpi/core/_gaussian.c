/* Normal numbers by Box and Muller's transform, in operations that IEEE 754 rounds in one way only: see gaussian.py,
 * which does the same in the same order. No branch and no address depends on a word.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "_clones.h"
#include "_kernels.h"

#define ONE 0x3ff0000000000000u       /* of 1.0; with 52 random bits below it, of a number in [1, 2) */
#define INTEGER 0x4330000000000000u   /* of 2^52; with an integer below it, of 2^52 + that integer */
#define ROOT_HALF 0x3fe6a09e667f3bcdu /* of the square root of 1/2 */
#define LN2 0x1.62e42fefa39efp-1
#define HALF_PI 0x1.921fb54442d18p+0
#define HALF_STEP 0x1p-53
#define BIAS 64

INLINE double number(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* ln u for u in (0, 1): u = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh((m - 1) / (m + 1)). */
INLINE double logarithm(double u) {
    const uint64_t biased = (bits_of(u) - ROOT_HALF + ((uint64_t)BIAS << 52)) >> 52;
    const double e = number(biased | INTEGER) - (0x1p52 + BIAS);
    const double f = number(bits_of(u) - ((biased - BIAS) << 52)) - 1.0, s = f / (f + 2.0), z = s * s;
    double p = 1.0 / 17;
    p = p * z + 1.0 / 15;
    p = p * z + 1.0 / 13;
    p = p * z + 1.0 / 11;
    p = p * z + 1.0 / 9;
    p = p * z + 1.0 / 7;
    p = p * z + 1.0 / 5;
    p = p * z + 1.0 / 3;
    p = p * z + 1.0;
    return e * LN2 + (s + s) * p;
}

/* For t in (-pi/4, pi/4). */
INLINE double sine(double t) {
    const double z = t * t;
    double p = -1.0 / 1307674368000;
    p = p * z + 1.0 / 6227020800;
    p = p * z - 1.0 / 39916800;
    p = p * z + 1.0 / 362880;
    p = p * z - 1.0 / 5040;
    p = p * z + 1.0 / 120;
    p = p * z - 1.0 / 6;
    p = p * z + 1.0;
    return p * t;
}

INLINE double cosine(double t) {
    const double z = t * t;
    double p = -1.0 / 87178291200;
    p = p * z + 1.0 / 479001600;
    p = p * z - 1.0 / 3628800;
    p = p * z + 1.0 / 40320;
    p = p * z - 1.0 / 720;
    p = p * z + 1.0 / 24;
    p = p * z - 1.0 / 2;
    p = p * z + 1.0;
    return p;
}

INLINE void transform(const uint64_t *radii, const uint64_t *angles, size_t n, double std, double grid, double *x,
                      double *y, int rounded) {
    const double per_unit = rounded ? 1.0 / grid : 0.0;
    for (size_t i = 0; i < n; i++) {
        const double u = number(radii[i] >> 12 | ONE) - 1.0 + HALF_STEP;
        const double t = (number(angles[i] >> 12 | ONE) - 1.5 + HALF_STEP) * HALF_PI;
        const double r = sqrt(-2.0 * logarithm(u)) * std;
        /* t is in one quadrant; two bits of the word choose among four. */
        const uint64_t c = bits_of(cosine(t)), s = bits_of(sine(t));
        const uint64_t swap = (c ^ s) & ((angles[i] & 1) * UINT64_MAX), sign = angles[i] << 62 & (uint64_t)1 << 63;
        const double a = number(c ^ swap ^ sign) * r, b = number(s ^ swap ^ sign) * r;
        x[i] = rounded ? rint(a * per_unit) * grid : a;
        y[i] = rounded ? rint(b * per_unit) * grid : b;
    }
}

CLONES void fedmpi_gaussian(const uint64_t *radii, const uint64_t *angles, size_t n, double std, double grid,
                            double *x, double *y) {
    if (grid > 0)
        transform(radii, angles, n, std, grid, x, y, 1);
    else
        transform(radii, angles, n, std, grid, x, y, 0);
}

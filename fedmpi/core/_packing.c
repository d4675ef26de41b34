/* Numbers of a few bits, without gaps between them.
 *
 * A block is 32 rows of LANES numbers. Lane l of a block is packed into words l, LANES + l, 2 LANES + l ... of it, so
 * that all lanes are shifted alike and a row is one vector. What is left behind the last block is one lane.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "_clones.h"
#include "_kernels.h"

enum { LANES = 8, BLOCK = 32 * LANES };

typedef uint32_t row __attribute__((vector_size(4 * LANES)));

/* The same loops for rows and for single numbers. Unpacking reads no word behind those of the numbers. */
#define DEFINE(name, type)                                                                                    \
    INLINE void pack_##name(const uint32_t *x, size_t rows, uint32_t bits, uint32_t *words, type *all) {      \
        type value, word = {0};                                                                               \
        uint32_t filled = 0;                                                                                  \
        for (size_t k = 0; k < rows; k++, x += sizeof(type) / 4) {                                            \
            memcpy(&value, x, sizeof(type));                                                                  \
            *all |= value;                                                                                    \
            word |= value << filled;                                                                          \
            filled += bits;                                                                                   \
            if (filled < 32) continue;                                                                        \
            filled -= 32;                                                                                     \
            memcpy(words, &word, sizeof(type));                                                               \
            words += sizeof(type) / 4;                                                                        \
            word = value >> 1 >> (bits - filled - 1); /* perhaps by 32 */                                     \
        }                                                                                                     \
        if (filled) memcpy(words, &word, sizeof(type));                                                       \
    }                                                                                                         \
                                                                                                              \
    INLINE void unpack_##name(const uint32_t *words, size_t rows, uint32_t bits, uint32_t *x) {               \
        const uint32_t mask = 0xffffffffu >> (32 - bits);                                                     \
        type value, word = {0};                                                                               \
        uint32_t used = 32;                                                                                   \
        for (size_t k = 0; k < rows; k++, x += sizeof(type) / 4) {                                            \
            value = used < 32 ? word >> used : word & 0;                                                      \
            if (used + bits > 32) {                                                                           \
                memcpy(&word, words, sizeof(type));                                                           \
                words += sizeof(type) / 4;                                                                    \
                value |= word << (32 - used);                                                                 \
                used -= 32;                                                                                   \
            }                                                                                                 \
            used += bits;                                                                                     \
            value &= mask;                                                                                    \
            memcpy(x, &value, sizeof(type));                                                                  \
        }                                                                                                     \
    }

DEFINE(block, row)
DEFINE(rest, uint32_t)

CLONES uint32_t fedmpi_pack(const uint32_t *x, size_t n, uint32_t bits, uint32_t *words) {
    row lanes = {0};
    uint32_t all = 0;
    for (; n >= BLOCK; n -= BLOCK, x += BLOCK, words += (size_t)LANES * bits) pack_block(x, 32, bits, words, &lanes);
    pack_rest(x, n, bits, words, &all);
    for (int l = 0; l < LANES; l++) all |= lanes[l];
    return all;
}

CLONES void fedmpi_unpack(const uint32_t *words, size_t n, uint32_t bits, uint32_t *x) {
    for (; n >= BLOCK; n -= BLOCK, x += BLOCK, words += (size_t)LANES * bits) unpack_block(words, 32, bits, x);
    unpack_rest(words, n, bits, x);
}

/* What Python sees of the kernels. cffi reads this file too: plain declarations only, no preprocessor. */

typedef struct {
    uint32_t p;           /* the prime */
    uint32_t bits;        /* b: p = 2^b - c */
    uint32_t c;
    uint32_t max_terms;   /* products that may be added to a value below p; 0: fold each product first */
    uint32_t small_terms; /* products whose sum two folds bring below 2p */
} fedmpi_prime;

/* out (outputs, d) = s(X W)^T X in one pass over x (rows, d), where w is (outputs, degree, d) and
 * s = c_0 + c_1 z_1 + c_2 z_1 z_2 + ... Scratch: g (outputs * d) zeroed, padded (8 * d), z (degree * 8). */
void fedmpi_gradient(const uint32_t *x, size_t rows, size_t d, const uint32_t *w, size_t outputs, size_t degree,
                     const uint32_t *coefficients, uint64_t *g, uint32_t *padded, uint32_t *z, uint32_t *out,
                     const fedmpi_prime *f);

/* z (outputs, rows) = W X^T, where w is (outputs, d). Scratch: padded (8 * d). */
void fedmpi_product(const uint32_t *x, size_t rows, size_t d, const uint32_t *w, size_t outputs, uint32_t *padded,
                    uint32_t *z, const fedmpi_prime *f);

/* out (outputs, d) = S X, where s is (outputs, rows). Scratch: g (outputs * d) zeroed, padded (8 * d). */
void fedmpi_transposed_product(const uint32_t *x, size_t rows, size_t d, const uint32_t *s, size_t outputs,
                               uint64_t *g, uint32_t *padded, uint32_t *out, const fedmpi_prime *f);

/* out[n][:] = sum_k a[n, k] b[k][:] for n < rows; every b[k] and out[n] has `columns` elements. */
void fedmpi_matmul(const uint32_t *a, size_t rows, size_t inner, const uint32_t *const *b, size_t columns,
                   uint32_t *const *out, const fedmpi_prime *f);

/* words: x (n) in `bits` bits each, 8 * bits words for every 256 numbers and as few as possible for the rest. Returns
 * the bits that are set anywhere in x. */
uint32_t fedmpi_pack(const uint32_t *x, size_t n, uint32_t bits, uint32_t *words);

/* x (n): what was packed. */
void fedmpi_unpack(const uint32_t *words, size_t n, uint32_t bits, uint32_t *x);

/* x, y (n): independent numbers from N(0, std^2) from n pairs of uniform words, rounded to multiples of `grid` (a power
 * of two) unless it is 0. */
void fedmpi_gaussian(const uint64_t *radii, const uint64_t *angles, size_t n, double std, double grid, double *x,
                     double *y);

/* z (vectors, rows) = V X^T of the first n columns of x (rows, d), exact. v is (vectors, n), in [-2^14, 2^14]. */
void fedmpi_small_product(const int8_t *x, size_t rows, size_t d, size_t n, const int16_t *v, size_t vectors, int64_t *z);

/* g (d) += X^T s. */
void fedmpi_small_transposed_product(const int8_t *x, size_t rows, size_t d, const float *s, float *g);

/* Whether this processor has what fedmpi_perceptron takes: AVX-512. */
int fedmpi_perceptron_runs(void);

/* Train a ReLU network of `layers` linear layers (sizes[k] inputs, sizes[k + 1] outputs) by gradient descent on the mean
 * cross-entropy of batches. `parameters`, changed in place, holds the weights (outputs, inputs) and biases (outputs) of
 * one layer after another; x is (rows, sizes[0]); `order` (epochs, rows) names the rows in the order of the batches;
 * gradients are scaled down to the norm `clip`. Returns 0 if there is no memory. */
int fedmpi_perceptron(size_t layers, const size_t *sizes, float *parameters, const float *x, const int64_t *labels,
                      const int64_t *order, size_t rows, size_t epochs, size_t batch, float rate, float clip);

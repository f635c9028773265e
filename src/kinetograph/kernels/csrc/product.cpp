#include "product.h"

int64_t flop_count = 0;

extern "C" {

// Of the sources this library was compiled from.
const char* kg_source_hash() { return SOURCE_HASH; }

// Floats in a register: features are padded with zeros to a multiple of it.
int64_t kg_width() { return W; }

// Floating-point operations of all products since the library was loaded.
int64_t kg_flop() { return flop_count; }

// Pack weights (n_out, n_in) into panels; n_out is a multiple of kg_width().
void kg_pack(const float* weights, int64_t n_out, int64_t n_in, float* packed) {
    for (int64_t begin = 0; begin < n_out;) {
        const int width = panel_vectors(int((n_out - begin) / W)) * W;
        for (int64_t k = 0; k < n_in; ++k)
            for (int64_t c = 0; c < width; ++c) *packed++ = weights[(begin + c) * n_in + k];
        begin += width;
    }
}

// Whether there are products of bfloat16 pairs.
int64_t kg_has_bfloat16() {
#if defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}

// Pack weights (n_out, n_in) of bfloat16 into panels; n_out is a multiple of kg_width(), n_in even.
void kg_pack_bfloat16(const uint16_t* weights, int64_t n_out, int64_t n_in, uint16_t* packed) {
    for (int64_t begin = 0; begin < n_out;) {
        const int width = panel_vectors(int((n_out - begin) / W)) * W;
        for (int64_t k = 0; k < n_in; k += 2)
            for (int64_t c = 0; c < width; ++c) {
                *packed++ = weights[(begin + c) * n_in + k];
                *packed++ = weights[(begin + c) * n_in + k + 1];
            }
        begin += width;
    }
}

// out (n_rows, n_out) = rows (n_rows, n_in) · Wᵀ + bias, with silu where asked.
void kg_product(const float* rows, const float* packed, const float* bias, float* out, int64_t n_rows, int64_t n_in,
                int64_t n_out, int64_t with_silu) {
    if (with_silu)
        product<Activation::SILU>(n_rows, rows, n_in, packed, n_in, n_out, bias, out, n_out);
    else
        product(n_rows, rows, n_in, packed, n_in, n_out, bias, out, n_out);
}

#if defined(__AVX512BF16__)
// The same of rows and weights of bfloat16.
void kg_product_bfloat16(const float* rows, const float* packed, const float* bias, float* out, int64_t n_rows,
                         int64_t n_in, int64_t n_out) {
    product<Activation::NONE, false, Pairs>(n_rows, rows, n_in / 2, packed, n_in / 2, n_out, bias, out, n_out);
}
#endif
}

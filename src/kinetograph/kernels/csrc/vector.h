// Vectors of floats as wide as the machine's registers, and the functions of them that networks need.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int W = 16;  // floats in a register
constexpr int N_REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int W = 8;
constexpr int N_REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int W = 4;
constexpr int N_REGISTERS = 32;
#else
constexpr int W = 4;
constexpr int N_REGISTERS = 16;
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef float vf_anywhere __attribute__((vector_size(4 * W), aligned(4), may_alias));

INLINE vf load(const float* p) { return *(const vf_anywhere*)p; }
INLINE void store(float* p, vf x) { *(vf_anywhere*)p = x; }
INLINE vf all(float x) { return x - (vf){}; }

// The sums over all lanes of four vectors, by a tree of fixed shape.
INLINE void sum_four(vf a, vf b, vf c, vf d, float* sums) {
    float part[W];
#if defined(__AVX512F__)
    const vf ab = __builtin_shufflevector(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
                  __builtin_shufflevector(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
    const vf cd = __builtin_shufflevector(c, d, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
                  __builtin_shufflevector(c, d, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
    store(part, __builtin_shufflevector(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                    __builtin_shufflevector(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31));
#elif defined(__AVX2__)
    const vf ab = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +
                  __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
    const vf cd = __builtin_shufflevector(c, d, 0, 8, 2, 10, 4, 12, 6, 14) +
                  __builtin_shufflevector(c, d, 1, 9, 3, 11, 5, 13, 7, 15);
    store(part, __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                    __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15));
#else
    const vf ab = __builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7);
    const vf cd = __builtin_shufflevector(c, d, 0, 4, 2, 6) + __builtin_shufflevector(c, d, 1, 5, 3, 7);
    store(part, __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
#endif
    for (int k = 0; k < 4; ++k) {
        float total = part[k];
        for (int i = k + 4; i < W; i += 4) total += part[i];
        sums[k] = total;
    }
}

INLINE float sum(vf x) {
    float part[W];
    store(part, x);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) part[i] += part[i + half];
    return part[0];
}

// e^x for x below 88: Cody and Waite's reduction by powers of two, a polynomial for the rest; 2 ulp.
INLINE vf exp(vf x) {
    const vf low = all(-87.3f), high = all(88.0f);
    x = x < low ? low : x;
    x = x > high ? high : x;
    const float whole = 12582912.0f;  // 1.5 · 2²³: adding it rounds to a whole number
    const vf n = (x * 1.44269504f + whole) - whole;
    const vf r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    vf p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const vi exponent = __builtin_convertvector(n, vi) + 127;
    return p * (vf)(exponent << 23);
}

// 1/x to about an ulp, for x from 1e-37 to 1e37.
INLINE vf reciprocal(vf x) {
#if defined(__AVX512F__)
    typedef __attribute__((vector_size(64))) float v16;
    const vf r = (vf)__builtin_ia32_rcp14ps512_mask((v16)x, (v16)x, -1);
    return r + r * (1.0f - x * r);  // a step of Newton's from 14 bits
#else
    return 1.0f / x;
#endif
}

INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exp(-x)); }
INLINE vf silu(vf x) { return x / (1.0f + exp(-x)); }

// GELU(x) = x Φ(x): erfc(y) = e^(−y²) times a polynomial of 1/(1 + 0.4 y), fitted to 3e-9 on 0 … 4.3.
INLINE vf gelu(vf x) {
    const vf y = (x < 0.0f ? -x : x) * 0.70710678f;
    const vf t = 1.0f / (1.0f + 0.4f * y);
    vf p = all(8.531180702e-02f);
    p = p * t - 4.517130064e-01f;
    p = p * t + 8.115424727e-01f;
    p = p * t - 5.320800872e-01f;
    p = p * t + 5.287409802e-01f;
    p = p * t + 8.294160620e-02f;
    p = p * t + 2.527203313e-01f;
    p = p * t + 2.223614377e-01f;
    p = p * t + 1.744611638e-04f;
    const vf half = 0.5f * p * exp(-(y * y));  // Φ(−|x|)
    return x * (x < 0.0f ? half : 1.0f - half);
}

INLINE vf sqrt(vf x) {
    vf y;
#if defined(__AVX512F__)
    y = (vf)__builtin_ia32_sqrtps512_mask((__attribute__((vector_size(64))) float)x, (__attribute__((vector_size(64))) float)x, -1, 4);
#else
    for (int i = 0; i < W; ++i) y[i] = __builtin_sqrtf(x[i]);
#endif
    return y;
}

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t rounded_up(int64_t n) { return (n + W - 1) / W * W; }

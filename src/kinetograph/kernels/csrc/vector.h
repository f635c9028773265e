// Vectors of floats as wide as the machine's registers, and the functions of them that networks need.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

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

#if defined(__AVX512F__)
// 2^x to so many terms, exact to 8e-8 with five and to 1.0e-4 with three, for x of −126 … 126.
template <int TERMS>
INLINE vf exp2_terms(vf x) {
    const __m512 n = _mm512_roundscale_ps((__m512)x, 8);
    const vf r = x - (vf)n;
    vf p;
    if (TERMS == 5) {
        p = all(1.327463337e-3f);
        p = p * r + 9.671961680e-3f;
        p = p * r + 5.550678369e-2f;
        p = p * r + 2.402223532e-1f;
        p = p * r + 6.931470616e-1f;
    } else {
        p = all(5.500893174e-2f);
        p = p * r + 2.422109620e-1f;
        p = p * r + 6.932829274e-1f;
    }
    return (vf)_mm512_scalef_ps((__m512)(p * r + 1.0f), n);
}

// Of two, minimum and maximum give the second where one is no number.
INLINE vf exp_of_minus(vf x) {
    const __m512 y = _mm512_max_ps(_mm512_set1_ps(-126.0f), (__m512)(x * -1.44269504f));
    return exp2_terms<5>((vf)_mm512_min_ps(_mm512_set1_ps(126.0f), y));
}

// 1/x by Newton's step, for x that 1/x can be told of.
INLINE vf inverse(vf x) {
    const vf y = (vf)_mm512_rcp14_ps((__m512)x);
    return y * (2.0f - y * x);
}
#else
INLINE vf exp_of_minus(vf x) { return exp(-x); }
INLINE vf inverse(vf x) { return 1.0f / x; }
#endif

INLINE vf silu(vf x) { return x * inverse(1.0f + exp_of_minus(x)); }

// GELU(x) = x Φ(x): erfc(y) = e^(−y²) times a polynomial of 1/(1 + 0.4 y), fitted to 3e-9 on 0 … 4.3.
INLINE vf gelu(vf x) {
    const vf y = (x < 0.0f ? -x : x) * 0.70710678f;
    const vf t = inverse(1.0f + 0.4f * y);
    vf p = all(8.531180702e-02f);
    p = p * t - 4.517130064e-01f;
    p = p * t + 8.115424727e-01f;
    p = p * t - 5.320800872e-01f;
    p = p * t + 5.287409802e-01f;
    p = p * t + 8.294160620e-02f;
    p = p * t + 2.527203313e-01f;
    p = p * t + 2.223614377e-01f;
    p = p * t + 1.744611638e-04f;
    const vf half = 0.5f * p * exp_of_minus(y * y);  // Φ(−|x|)
    return x * (x < 0.0f ? half : 1.0f - half);
}

#if defined(__AVX512BF16__)
// What is rounded to eight bits next needs no more than thirteen: these are exact to 1.5e-4.
INLINE vf silu_coarse(vf x) {
    return x * (vf)_mm512_rcp14_ps((__m512)(1.0f + exp2_terms<3>(x * -1.44269504f)));
}

// Hastings' polynomial (Abramowitz and Stegun, 7.1.25).
INLINE vf gelu_coarse(vf x) {
    const vf y = (vf)_mm512_abs_ps((__m512)x) * 0.70710678f;
    const vf t = (vf)_mm512_rcp14_ps((__m512)(1.0f + 0.47047f * y));
    const vf half = ((0.3739278f * t - 0.0479399f) * t + 0.1740121f) * t * exp2_terms<3>(y * y * -1.44269504f);
    return x * (x < 0.0f ? half : 1.0f - half);
}

// A register's numbers as bfloat16, rounded to nearest.
INLINE void store_bfloat16(void* to, vf x) {
    const __m256bh y = _mm512_cvtneps_pbh((__m512)x);
    memcpy(to, &y, sizeof y);
}
#endif

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

// PaiNN's messages with the filters of its weights, and their derivatives of the first and the second order:
//
//     Δs_i = Σ_j a_j ∘ p_ij,   Δv_i = Σ_j b_j ∘ q_ij u_ij + c_j ∘ r_ij,   (p, q, r)_ij = W h_ij
//
// over the edges i → j, with a and b rows of ``sent`` and c the vectors that are sent, if there are any. With g_s and g_v
// the derivatives by Δs and Δv everything follows from
//
//     S = Σ_ij g_s,i · (a_j ∘ p_ij) + Σ_x g_v,ix · (b_j ∘ q_ij u_ijx + c_jx ∘ r_ij)
//
// The first order is the gradient of S; the second that of T, the change of S along given changes of a, b, c, h and u.
// Filters are made and used up a few edges at a time. Threads share the features: each is alone with what it writes,
// but for the derivatives by h and u, of which every thread has its own until they are added in order.
#include <cstdlib>

#include "product.h"
#include "team.h"

extern "C" void kg_pack(const float* weights, int64_t n_out, int64_t n_in, float* packed);

namespace {

constexpr int64_t TILE = 32;  // edges whose filters stand in cache at a time
constexpr int64_t MOST_THREADS = 64;

struct Memory {
    float* at;
    explicit Memory(int64_t n) : at((float*)aligned_alloc(64, size_t(rounded_up(n) + W) * 4 / 64 * 64 + 64)) {}
    ~Memory() { free(at); }
    Memory(const Memory&) = delete;
    operator float*() const { return at; }
};

// What the three functions are given; changes for the second order alone. Rows of ``sent`` hold a and b.
struct Given {
    int64_t n_atoms, F, K;
    const int64_t *first, *neighbor;
    const float *h, *u, *weights, *sent, *c;
    const float *by_s, *by_v;
    const float *h_change, *u_change, *sent_change, *c_change;
};

// What is asked for; derivatives by edges only where there is a place for them.
struct Asked {
    float *s, *v;
    float *by_sent, *by_c, *by_h, *by_u, *by_weights;
};

// The features of one thread, n from f on, of each of the two or three kinds of filters.
struct Part {
    const Given& given;
    int64_t f, n, n_rows;
    Memory packed, packed_back;

    Part(const Given& g, int64_t begin, int64_t count, bool back)
        : given(g),
          f(begin),
          n(count),
          n_rows((g.c ? 3 : 2) * count),
          packed(n_rows * g.K),
          packed_back(back ? rounded_up(g.K) * n_rows : 0) {
        const int64_t K = g.K, padded = rounded_up(K);
        Memory rows(n_rows * K);
        for (int64_t r = 0; r < n_rows; ++r)
            memcpy(rows + r * K, g.weights + (r / n * g.F + f + r % n) * K, size_t(K) * 4);
        kg_pack(rows, n_rows, K, packed);
        if (!back) return;
        Memory columns(padded * n_rows);
        for (int64_t k = 0; k < padded; ++k)
            for (int64_t r = 0; r < n_rows; ++r) columns[k * n_rows + r] = k < K ? rows[r * K + k] : 0.0f;
        kg_pack(columns, padded, n_rows, packed_back);
    }
};

struct Vector {
    vf x, y, z;
};

INLINE Vector load_vector(const float* p, int64_t stride) { return {load(p), load(p + stride), load(p + 2 * stride)}; }
INLINE void store_vector(float* p, int64_t stride, Vector v) {
    store(p, v.x);
    store(p + stride, v.y);
    store(p + 2 * stride, v.z);
}
INLINE void add_vector(float* p, int64_t stride, Vector v) {
    const Vector w = load_vector(p, stride);
    store_vector(p, stride, {w.x + v.x, w.y + v.y, w.z + v.z});
}
INLINE void add(float* p, vf x) { store(p, load(p) + x); }
INLINE vf along(Vector v, const float* u) { return v.x * u[0] + v.y * u[1] + v.z * u[2]; }
INLINE vf dot(Vector a, Vector b) { return a.x * b.x + a.y * b.y + a.z * b.z; }

// For so many edges at a time: tile(begin, m), then run(i, begin, from, to) for those of them that have one centre,
// counted from ``begin``, then end(begin, m).
template <typename OfTile, typename OfRun, typename AtEnd>
INLINE void all_edges(const Given& g, const OfTile& tile, const OfRun& run, const AtEnd& end) {
    const int64_t n_edges = g.first[g.n_atoms];
    int64_t i = 0;
    for (int64_t begin = 0; begin < n_edges; begin += TILE) {
        const int64_t m = smaller(TILE, n_edges - begin);
        tile(begin, m);
        for (int64_t e = begin; e < begin + m;) {
            while (g.first[i + 1] <= e) ++i;
            const int64_t to = smaller(g.first[i + 1], begin + m);
            run(i, begin, e - begin, to - begin);
            e = to;
        }
        end(begin, m);
    }
}

template <bool VECTORS>
void messages(const Part& part, const Asked& asked) {
    const Given& g = part.given;
    const int64_t F = g.F, n = part.n, rows = part.n_rows;
    Memory filters(TILE * rows);
    all_edges(
        g,
        [&](int64_t begin, int64_t m) {
            product(m, g.h + begin * g.K, g.K, part.packed, g.K, rows, nullptr, filters, rows);
        },
        [&](int64_t i, int64_t begin, int64_t e0, int64_t e1) {
            for (int64_t k = 0; k < n; k += W) {
                // On from what is there: so a sum does not depend on where tiles begin.
                float *s = asked.s + i * F + part.f + k, *v = asked.v + i * 3 * F + part.f + k;
                vf to_s = load(s);
                Vector to_v = load_vector(v, F);
                for (int64_t e = e0; e < e1; ++e) {
                    const int64_t j = g.neighbor[begin + e];
                    const float *w = filters + e * rows + k, *u = g.u + 3 * (begin + e);
                    const float* from = g.sent + j * 2 * F + part.f + k;
                    to_s += load(from) * load(w);
                    const vf bq = load(from + F) * load(w + n);
                    to_v.x += bq * u[0];
                    to_v.y += bq * u[1];
                    to_v.z += bq * u[2];
                    if (VECTORS) {
                        const vf r = load(w + 2 * n);
                        const Vector c = load_vector(g.c + j * 3 * F + part.f + k, F);
                        to_v.x += c.x * r;
                        to_v.y += c.y * r;
                        to_v.z += c.z * r;
                    }
                }
                store(s, to_s);
                store_vector(v, F, to_v);
            }
        },
        [](int64_t, int64_t) {});
}

template <int M, int N>
INLINE void add_outer_block(int64_t m, const float* inputs, int64_t K, const float* factors, int64_t rows, float* sums) {
    vf total[M][N] = {};
    for (int64_t e = 0; e < m; ++e) {
        vf f[N];
#pragma GCC unroll 4
        for (int c = 0; c < N; ++c) f[c] = load(factors + e * rows + c * W);
#pragma GCC unroll 8
        for (int a = 0; a < M; ++a)
#pragma GCC unroll 4
            for (int c = 0; c < N; ++c) total[a][c] += inputs[e * K + a] * f[c];
    }
#pragma GCC unroll 8
    for (int a = 0; a < M; ++a)
#pragma GCC unroll 4
        for (int c = 0; c < N; ++c) add(sums + a * rows + c * W, total[a][c]);
}

template <int N>
INLINE void add_outer_columns(int64_t m, const float* inputs, int64_t K, const float* factors, int64_t rows,
                              float* sums) {
    constexpr int M = N_REGISTERS == 32 ? 7 : 4;  // 21 inputs are the rule
    int64_t k = 0;
    for (; k + M <= K; k += M) add_outer_block<M, N>(m, inputs + k, K, factors, rows, sums + k * rows);
    for (; k < K; ++k) add_outer_block<1, N>(m, inputs + k, K, factors, rows, sums + k * rows);
}

// sums (K, rows) += Σ_e inputs_ek factors_er
void add_outer(int64_t m, const float* inputs, int64_t K, const float* factors, int64_t rows, float* sums) {
    int64_t r = 0;
    for (; r + 2 * W <= rows; r += 2 * W) add_outer_columns<2>(m, inputs, K, factors + r, rows, sums + r);
    for (; r < rows; r += W) add_outer_columns<1>(m, inputs, K, factors + r, rows, sums + r);
}

// What derivatives by edges and weights are made of, for the edges of a tile.
struct Tile {
    const Part& part;
    const Asked& asked;
    Memory filters, changes, to_h, to_weights, to_u;

    Tile(const Part& p, const Asked& a, bool second)
        : part(p),
          asked(a),
          filters(TILE * p.n_rows),
          changes(second ? TILE * p.n_rows : 0),
          to_h(TILE * rounded_up(p.given.K)),
          to_weights(p.given.K * p.n_rows),
          to_u(TILE * 3 * W) {
        memset(to_weights.at, 0, size_t(p.given.K * p.n_rows) * 4);
    }

    void make(const float* inputs, int64_t begin, int64_t m, float* rows) {
        const int64_t K = part.given.K;
        product(m, inputs + begin * K, K, part.packed, K, part.n_rows, nullptr, rows, part.n_rows);
        memset(to_u.at, 0, size_t(m * 3 * W) * 4);
    }

    // The rows hold derivatives by filters now.
    void by_edges(int64_t begin, int64_t m) {
        if (!asked.by_h) return;
        const int64_t K = part.given.K, padded = rounded_up(K);
        product(m, filters, part.n_rows, part.packed_back, part.n_rows, padded, nullptr, to_h, padded);
        for (int64_t e = 0; e < m; ++e) {
            memcpy(asked.by_h + (begin + e) * K, to_h + e * padded, size_t(K) * 4);
            for (int x = 0; x < 3; ++x) asked.by_u[3 * (begin + e) + x] = sum(load(to_u + (3 * e + x) * W));
        }
    }

    void by_weights(const float* inputs, int64_t begin, int64_t m, const float* rows) {
        if (asked.by_weights)
            add_outer(m, inputs + begin * part.given.K, part.given.K, rows, part.n_rows, to_weights);
    }

    void finish() {
        if (!asked.by_weights) return;
        const int64_t K = part.given.K, n = part.n, F = part.given.F;
        for (int64_t r = 0; r < part.n_rows; ++r)
            for (int64_t k = 0; k < K; ++k)
                asked.by_weights[(r / n * F + part.f + r % n) * K + k] = to_weights[k * part.n_rows + r];
    }
};

template <bool VECTORS>
void first_order(const Part& part, const Asked& asked) {
    const Given& g = part.given;
    const int64_t F = g.F, n = part.n, rows = part.n_rows;
    Tile tile(part, asked, false);
    all_edges(
        g,
        [&](int64_t begin, int64_t m) { tile.make(g.h, begin, m, tile.filters); },
        [&](int64_t i, int64_t begin, int64_t e0, int64_t e1) {
            for (int64_t k = 0; k < n; k += W) {
                const vf by_s = load(g.by_s + i * F + part.f + k);
                const Vector by_v = load_vector(g.by_v + i * 3 * F + part.f + k, F);
                for (int64_t e = e0; e < e1; ++e) {
                    const int64_t j = g.neighbor[begin + e], at = j * 2 * F + part.f + k;
                    const float* u = g.u + 3 * (begin + e);
                    float* w = tile.filters + e * rows + k;
                    const vf a = load(g.sent + at), b = load(g.sent + at + F), p = load(w), q = load(w + n);
                    const vf G = along(by_v, u), bq = b * q;
                    add(asked.by_sent + at, by_s * p);
                    add(asked.by_sent + at + F, G * q);
                    store(w, by_s * a);
                    store(w + n, G * b);
                    if (VECTORS) {
                        const vf r = load(w + 2 * n);
                        const int64_t at_c = j * 3 * F + part.f + k;
                        add_vector(asked.by_c + at_c, F, {by_v.x * r, by_v.y * r, by_v.z * r});
                        store(w + 2 * n, dot(by_v, load_vector(g.c + at_c, F)));
                    }
                    add_vector(tile.to_u + 3 * e * W, W, {by_v.x * bq, by_v.y * bq, by_v.z * bq});
                }
            }
        },
        [&](int64_t begin, int64_t m) {
            tile.by_edges(begin, m);
            tile.by_weights(g.h, begin, m, tile.filters);
        });
    tile.finish();
}

template <bool VECTORS>
void second_order(const Part& part, const Asked& asked) {
    const Given& g = part.given;
    const int64_t F = g.F, n = part.n, rows = part.n_rows;
    Tile tile(part, asked, true);
    all_edges(
        g,
        [&](int64_t begin, int64_t m) {
            tile.make(g.h, begin, m, tile.filters);
            tile.make(g.h_change, begin, m, tile.changes);
        },
        [&](int64_t i, int64_t begin, int64_t e0, int64_t e1) {
            for (int64_t k = 0; k < n; k += W) {
                const vf by_s = load(g.by_s + i * F + part.f + k);
                const Vector by_v = load_vector(g.by_v + i * 3 * F + part.f + k, F);
                // On from what is there: so a sum does not depend on where tiles begin.
                float *s = asked.s + i * F + part.f + k, *v = asked.v + i * 3 * F + part.f + k;
                vf to_s = load(s);
                Vector to_v = load_vector(v, F);
                for (int64_t e = e0; e < e1; ++e) {
                    const int64_t j = g.neighbor[begin + e], at = j * 2 * F + part.f + k;
                    const float *u = g.u + 3 * (begin + e), *du = g.u_change + 3 * (begin + e);
                    float *w = tile.filters + e * rows + k, *dw = tile.changes + e * rows + k;
                    const vf a = load(g.sent + at), b = load(g.sent + at + F);
                    const vf da = load(g.sent_change + at), db = load(g.sent_change + at + F);
                    const vf p = load(w), q = load(w + n), dp = load(dw), dq = load(dw + n);
                    const vf G = along(by_v, u), dG = along(by_v, du);
                    const vf bq = b * q, d_bq = db * q + b * dq;
                    to_s += da * p + a * dp;
                    to_v.x += d_bq * u[0] + bq * du[0];
                    to_v.y += d_bq * u[1] + bq * du[1];
                    to_v.z += d_bq * u[2] + bq * du[2];
                    add(asked.by_sent + at, by_s * dp);
                    add(asked.by_sent + at + F, G * dq + dG * q);
                    store(w, by_s * da);
                    store(dw, by_s * a);
                    store(w + n, G * db + dG * b);
                    store(dw + n, G * b);
                    if (VECTORS) {
                        const int64_t at_c = j * 3 * F + part.f + k;
                        const vf r = load(w + 2 * n), dr = load(dw + 2 * n);
                        const Vector c = load_vector(g.c + at_c, F), dc = load_vector(g.c_change + at_c, F);
                        to_v.x += dc.x * r + c.x * dr;
                        to_v.y += dc.y * r + c.y * dr;
                        to_v.z += dc.z * r + c.z * dr;
                        add_vector(asked.by_c + at_c, F, {by_v.x * dr, by_v.y * dr, by_v.z * dr});
                        store(w + 2 * n, dot(by_v, dc));
                        store(dw + 2 * n, dot(by_v, c));
                    }
                    add_vector(tile.to_u + 3 * e * W, W, {by_v.x * d_bq, by_v.y * d_bq, by_v.z * d_bq});
                }
                store(s, to_s);
                store_vector(v, F, to_v);
            }
        },
        [&](int64_t begin, int64_t m) {
            tile.by_edges(begin, m);
            tile.by_weights(g.h, begin, m, tile.filters);
            tile.by_weights(g.h_change, begin, m, tile.changes);
        });
    tile.finish();
}

// Call work(part, asked) for the features of every thread, and add up what they have of the edges.
template <typename Work>
void share(int64_t n_threads, const Given& given, const Asked& asked, bool back, const Work& work) {
    const int64_t blocks = given.F / W, n_edges = given.first[given.n_atoms];
    n_threads = smaller(smaller(n_threads, blocks), MOST_THREADS);
    const int64_t edge_size = asked.by_h ? n_edges * (given.K + 3) : 0;
    if (n_threads < 1) n_threads = 1;
    Memory others(edge_size * (n_threads - 1));
    Team::run(n_threads, [&](Team& team, int64_t number) {
        // As many members as there are; a share each.
        const int64_t begin = blocks * number / team.size() * W, end = blocks * (number + 1) / team.size() * W;
        Asked own = asked;
        if (asked.by_h && number) {
            own.by_h = others + (number - 1) * edge_size;
            own.by_u = own.by_h + n_edges * given.K;
        }
        work(Part(given, begin, end - begin, back && asked.by_h), own);
        team.wait();
        if (number || !asked.by_h) return;
        for (int64_t t = 0; t < team.size() - 1; ++t) {
            const float *by_h = others + t * edge_size, *by_u = by_h + n_edges * given.K;
            for (int64_t k = 0; k < n_edges * given.K; ++k) asked.by_h[k] += by_h[k];
            for (int64_t k = 0; k < n_edges * 3; ++k) asked.by_u[k] += by_u[k];
        }
    });
}

}  // namespace

extern "C" {

// Δs (n_atoms, F) and Δv (n_atoms, 3, F). F is a multiple of kg_width(); without vectors c is null.
void kg_painn_messages(int64_t n_threads, int64_t n_atoms, int64_t F, int64_t K, const int64_t* first,
                       const int64_t* neighbor, const float* h, const float* u, const float* weights,
                       const float* sent, const float* c, float* s, float* v) {
    const Given given = {n_atoms, F, K, first, neighbor, h, u, weights, sent, c};
    const Asked asked = {s, v};
    memset(s, 0, size_t(n_atoms * F) * 4);
    memset(v, 0, size_t(n_atoms * 3 * F) * 4);
    share(n_threads, given, asked, false, [&](const Part& part, const Asked& own) {
        c ? messages<true>(part, own) : messages<false>(part, own);
    });
}

// The gradient of S by all; by edges and by weights where these are not null.
void kg_painn_messages_back(int64_t n_threads, int64_t n_atoms, int64_t F, int64_t K, const int64_t* first,
                            const int64_t* neighbor, const float* h, const float* u, const float* weights,
                            const float* sent, const float* c, const float* by_s, const float* by_v, float* by_sent,
                            float* by_c, float* by_h, float* by_u, float* by_weights) {
    const Given given = {n_atoms, F, K, first, neighbor, h, u, weights, sent, c, by_s, by_v};
    const Asked asked = {nullptr, nullptr, by_sent, by_c, by_h, by_u, by_weights};
    memset(by_sent, 0, size_t(n_atoms * 2 * F) * 4);
    if (c) memset(by_c, 0, size_t(n_atoms * 3 * F) * 4);
    share(n_threads, given, asked, true, [&](const Part& part, const Asked& own) {
        c ? first_order<true>(part, own) : first_order<false>(part, own);
    });
}

// The gradient of T by g_s and g_v, written to s and v, and by all that S has.
void kg_painn_messages_second(int64_t n_threads, int64_t n_atoms, int64_t F, int64_t K, const int64_t* first,
                              const int64_t* neighbor, const float* h, const float* u, const float* weights,
                              const float* sent, const float* c, const float* by_s, const float* by_v,
                              const float* h_change, const float* u_change, const float* sent_change,
                              const float* c_change, float* s, float* v, float* by_sent, float* by_c, float* by_h,
                              float* by_u, float* by_weights) {
    const Given given = {n_atoms,  F,    K,    first, neighbor, h,        u,           weights, sent,
                         c,        by_s, by_v, h_change, u_change, sent_change, c_change};
    const Asked asked = {s, v, by_sent, by_c, by_h, by_u, by_weights};
    memset(s, 0, size_t(n_atoms * F) * 4);
    memset(v, 0, size_t(n_atoms * 3 * F) * 4);
    memset(by_sent, 0, size_t(n_atoms * 2 * F) * 4);
    if (c) memset(by_c, 0, size_t(n_atoms * 3 * F) * 4);
    share(n_threads, given, asked, true, [&](const Part& part, const Asked& own) {
        c ? second_order<true>(part, own) : second_order<false>(part, own);
    });
}
}

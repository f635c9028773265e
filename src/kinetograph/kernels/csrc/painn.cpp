// PaiNN for running: the sum over neighbours, the update of an atom and the network that prepares its next
// messages make one pass over small tiles of atoms, which stay in cache. Filters are splines, evaluated once for
// both edges of a pair: an atom adds to those that come after it, so that its own sums are complete in its turn.
// Energies are differentiated by the reverse passes below, in the same way. Several threads share the atoms; then
// each atom sums over all its edges by itself (BOTH is false), and nobody adds to another's.
//
// Layout, with F the width padded to whole registers: scalars (n_atoms, F); vectors (n_atoms, 3, F);
// messages (n_atoms, F/W, 5, W): φ_s, φ_vs and φ_vv ∘ v. Those of the first layer, whose vectors are zero and
// whose scalars are the element's, are (n_elements, F/W, 2, W).
#include "pairs.h"
#include "product.h"
#include "team.h"

namespace {

constexpr int64_t TILE = 48;
constexpr int AHEAD = 3;  // pairs whose neighbour's features are fetched before they are needed
constexpr int BLOCKS = N_REGISTERS == 32 ? 3 : 1;  // registers of features summed over neighbours at once

struct Layer {
    const float *filter;                      // (F/W, n_types × n_rows, 3, W)
    const float *phi_1, *phi_1_bias;          // F → F, packed
    const float *phi_2, *phi_2_bias;          // F → 3F
    const float *mix;                         // F → 2F
    const float *gates_1, *gates_1_bias;      // 2F → F
    const float *gates_2, *gates_2_bias;      // F → 3F
    const float *phi_1_back, *phi_2_back, *mix_back, *gates_1_back, *gates_2_back;  // transposed
};

struct Network {
    int64_t width, n_layers, n_types, n_rows;  // F; types of edges, rows of a filter's table for one of them
    double start, rows_per_length;
    float norm_epsilon;
    const Layer* layers;
    const float *embedding, *first_messages;  // (n_elements, F), (n_elements, F/W, 2, W)
    const float *force_1, *force_1_bias, *force_2, *force_2_bias;      // F → F → F
    int64_t energy_width;                     // padded
    const float *energy_1, *energy_1_bias, *energy_2, *energy_1_back;  // F → energy_width, its last weights
    float energy_2_bias;
};

INLINE void prefetch(const float* from, int n_floats) {
#pragma GCC unroll 16
    for (int k = 0; k < n_floats; k += 16) __builtin_prefetch(from + k);
}

// ---- forward -----------------------------------------------------------------------------------------

// What an atom and those that come after it send each other, in N registers of features from block ``b`` of W on:
// added to the scalars and vectors of both. Of the atom's own the sum is complete when its turn comes. Without BOTH,
// what all its neighbours send to the atom.
template <int N, bool FIRST, bool BOTH>
INLINE void message_blocks(const Network& net, const Layer& layer, const Graph& graph, int64_t atom, const Pair* begin,
                           const Pair* end, const float* messages, int64_t block, float* scalars, float* vectors) {
    constexpr int PARTS = FIRST ? 2 : 5;
    const int64_t F = net.width, table_stride = net.n_types * net.n_rows * 3 * W;
    const float* filter = layer.filter + block * table_stride;
    messages += block * PARTS * W;
    scalars += block * W;
    vectors += block * W;
    const auto sent_by = [&](int64_t a) { return messages + (FIRST ? graph.element[a] : a) * (PARTS * F); };
    vf to_s[N] = {}, to_v[N][3] = {};
    for (const Pair* p = begin; p < end; ++p) {
        const int64_t j = p->neighbor;
        if (p + AHEAD < end) {
            const int64_t later = p[AHEAD].neighbor;
            if (!FIRST) prefetch(sent_by(later), PARTS * N * W);
            if (BOTH) prefetch(scalars + later * F, N * W);
            for (int c = 0; BOTH && c < 3; ++c) prefetch(vectors + (later * 3 + c) * F, N * W);
        }
        const float *table = filter + int64_t(p->row) * (3 * W), *ours = sent_by(atom), *theirs = sent_by(j);
        float *s = scalars + j * F, *v = vectors + j * 3 * F;
#pragma GCC unroll 4
        for (int b = 0; b < N; ++b, s += W, v += W, table += table_stride, ours += PARTS * W, theirs += PARTS * W) {
            const vf w_s = weighted_rows<N_WEIGHTS>(table, 3 * W, p->weights);
            const vf w_vs = weighted_rows<N_WEIGHTS>(table + W, 3 * W, p->weights);
            const vf w_vv = FIRST ? vf{} : weighted_rows<N_WEIGHTS>(table + 2 * W, 3 * W, p->weights);
            to_s[b] += load(theirs) * w_s;
            const vf along = load(theirs + W) * w_vs;
            for (int c = 0; c < 3; ++c) {
                to_v[b][c] += along * p->unit[c];
                if (!FIRST) to_v[b][c] += load(theirs + (2 + c) * W) * w_vv;
            }
            if (!BOTH) continue;
            store(s, load(s) + load(ours) * w_s);
            const vf against = load(ours + W) * w_vs;
            for (int c = 0; c < 3; ++c) {
                vf there = load(v + c * F) - against * p->unit[c];
                if (!FIRST) there += load(ours + (2 + c) * W) * w_vv;
                store(v + c * F, there);
            }
        }
    }
    scalars += atom * F;
    vectors += atom * 3 * F;
    for (int b = 0; b < N; ++b) {
        store(scalars + b * W, load(scalars + b * W) + to_s[b]);
        for (int c = 0; c < 3; ++c) store(vectors + c * F + b * W, load(vectors + c * F + b * W) + to_v[b][c]);
    }
}

template <bool FIRST, bool BOTH>
INLINE void exchange(const Network& net, const Layer& layer, const Graph& graph, int64_t atom, const Pair* begin,
                     const Pair* end, const float* messages, float* scalars, float* vectors) {
    int64_t block = 0;
    for (; block + BLOCKS <= net.width / W; block += BLOCKS)
        message_blocks<BLOCKS, FIRST, BOTH>(net, layer, graph, atom, begin, end, messages, block, scalars, vectors);
    for (; block < net.width / W; ++block)
        message_blocks<1, FIRST, BOTH>(net, layer, graph, atom, begin, end, messages, block, scalars, vectors);
}

// Workspace of a tile; every part has rows for TILE atoms.
struct Tile {
    float *mixed, *seen, *before, *hidden, *gates;  // (3, 2F), (2F), (F), (F), (3F)
    static int64_t floats(int64_t F) { return TILE * 13 * F; }
    Tile(float* memory, int64_t F)
        : mixed(memory), seen(memory + TILE * 6 * F), before(memory + TILE * 8 * F), hidden(memory + TILE * 9 * F),
          gates(memory + TILE * 10 * F) {}
};

INLINE void activate(const float* before, float* after, int64_t n) {
    for (int64_t i = 0; i < n; i += W) store(after + i, silu(load(before + i)));
}

// gates of the update, from the scalars and vectors after the message; kept in the tile.
void update_gates(const Network& net, const Layer& layer, int64_t n, const float* scalars, const float* vectors,
                  Tile& tile) {
    const int64_t F = net.width;
    product(3 * n, vectors, F, layer.mix, F, 2 * F, nullptr, tile.mixed, 2 * F);
    for (int64_t a = 0; a < n; ++a)
        for (int64_t f = 0; f < F; f += W) {
            vf square = all(net.norm_epsilon);
            for (int c = 0; c < 3; ++c) {
                const vf v = load(tile.mixed + (a * 3 + c) * 2 * F + F + f);
                square += v * v;
            }
            store(tile.seen + a * 2 * F + f, load(scalars + a * F + f));
            store(tile.seen + a * 2 * F + F + f, sqrt(square));
        }
    product(n, tile.seen, 2 * F, layer.gates_1, 2 * F, F, layer.gates_1_bias, tile.before, F);
    activate(tile.before, tile.hidden, n * F);
    product(n, tile.hidden, F, layer.gates_2, F, 3 * F, layer.gates_2_bias, tile.gates, 3 * F);
}

void update(const Network& net, const Layer& layer, int64_t n, const float* scalars, const float* vectors,
            float* new_scalars, float* new_vectors, Tile& tile) {
    const int64_t F = net.width;
    update_gates(net, layer, n, scalars, vectors, tile);
    for (int64_t a = 0; a < n; ++a)
        for (int64_t f = 0; f < F; f += W) {
            const float* gate = tile.gates + a * 3 * F + f;
            const vf a_vv = load(gate + 2 * F);
            vf inner = vf{};
            for (int c = 0; c < 3; ++c) {
                const float* uv = tile.mixed + (a * 3 + c) * 2 * F + f;
                const vf u = load(uv);
                inner += u * load(uv + F);
                const int64_t at = (a * 3 + c) * F + f;
                store(new_vectors + at, load(vectors + at) + a_vv * u);
            }
            store(new_scalars + a * F + f, load(scalars + a * F + f) + load(gate) + load(gate + F) * inner);
        }
}

// φ(s), kept in the tile's gates; its first layer before activation in ``before``.
void phi(const Network& net, const Layer& layer, int64_t n, const float* scalars, Tile& tile) {
    const int64_t F = net.width;
    product(n, scalars, F, layer.phi_1, F, F, layer.phi_1_bias, tile.before, F);
    activate(tile.before, tile.hidden, n * F);
    product(n, tile.hidden, F, layer.phi_2, F, 3 * F, layer.phi_2_bias, tile.gates, 3 * F);
}

void make_messages(const Network& net, const Layer& layer, int64_t n, const float* scalars, const float* vectors,
                   float* messages, Tile& tile) {
    const int64_t F = net.width;
    phi(net, layer, n, scalars, tile);
    for (int64_t a = 0; a < n; ++a)
        for (int64_t f = 0; f < F; f += W) {
            const float* from = tile.gates + a * 3 * F + f;
            float* to = messages + (a * F + f) * 5;
            store(to, load(from));
            store(to + W, load(from + F));
            const vf phi_vv = load(from + 2 * F);
            for (int c = 0; c < 3; ++c) store(to + (2 + c) * W, phi_vv * load(vectors + (a * 3 + c) * F + f));
        }
}

void direct_forces(const Network& net, int64_t n, const float* scalars, const float* vectors, float* forces,
                   Tile& tile) {
    const int64_t F = net.width;
    product<Activation::SILU>(n, scalars, F, net.force_1, F, F, net.force_1_bias, tile.hidden, F);
    product(n, tile.hidden, F, net.force_2, F, F, net.force_2_bias, tile.before, F);
    for (int64_t a = 0; a < n; ++a)
        for (int c = 0; c < 3; ++c) {
            vf total = vf{};
            for (int64_t f = 0; f < F; f += W)
                total += load(tile.before + a * F + f) * load(vectors + (a * 3 + c) * F + f);
            forces[a * 3 + c] = sum(total);
        }
}

// The pairs of a graph's atoms, and the atoms that a thread works on: all of them with BOTH.
struct Share {
    const Graph& graph;
    const Pair* pairs;
    const int64_t *first, *last;
    int64_t begin, end;
};

// One layer over some atoms: ``scalars`` and ``vectors`` in, ``mid_…`` after the message, ``new_…`` after the
// update, which may all be the same memory; ``next`` gets the messages of the next layer, if there is one.
template <bool FIRST, bool BOTH>
void forward_layer(const Network& net, int64_t l, const Share& share, const float* messages, const float* scalars,
                   const float* vectors, float* mid_scalars, float* mid_vectors, float* new_scalars, float* new_vectors,
                   float* next, Tile& tile) {
    const int64_t F = net.width, from = share.begin, n_atoms = share.end - share.begin;
    const Layer& layer = net.layers[l];
    if (FIRST) {
        for (int64_t a = from; a < share.end; ++a)
            memcpy(mid_scalars + a * F, net.embedding + share.graph.element[a] * F, F * sizeof(float));
        memset(mid_vectors + from * 3 * F, 0, n_atoms * 3 * F * sizeof(float));
    } else if (mid_scalars != scalars) {
        memcpy(mid_scalars + from * F, scalars + from * F, n_atoms * F * sizeof(float));
        memcpy(mid_vectors + from * 3 * F, vectors + from * 3 * F, n_atoms * 3 * F * sizeof(float));
    }
    for (int64_t begin = from; begin < share.end; begin += TILE) {
        const int64_t n = smaller(TILE, share.end - begin);
        for (int64_t a = begin; a < begin + n; ++a)
            exchange<FIRST, BOTH>(net, layer, share.graph, a, share.pairs + share.first[a], share.pairs + share.last[a],
                                  messages, mid_scalars, mid_vectors);
        update(net, layer, n, mid_scalars + begin * F, mid_vectors + begin * 3 * F, new_scalars + begin * F,
               new_vectors + begin * 3 * F, tile);
        if (next)
            make_messages(net, net.layers[l + 1], n, new_scalars + begin * F, new_vectors + begin * 3 * F,
                          next + begin * 5 * F, tile);
    }
}

// ---- backward ----------------------------------------------------------------------------------------
// Slopes of the energy by scalars and vectors lie together, (n_atoms, F/W, 4, W): s, x, y, z.

INLINE vf silu_slope(vf x) {
    const vf s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

struct BackTile {
    float *gates, *hidden, *seen, *mixed, *vectors;  // (3F), (F), (2F), (3, 2F), (3, F)
    static int64_t floats(int64_t F) { return TILE * 15 * F; }
    BackTile(float* memory, int64_t F)
        : gates(memory), hidden(memory + TILE * 3 * F), seen(memory + TILE * 4 * F), mixed(memory + TILE * 6 * F),
          vectors(memory + TILE * 12 * F) {}
};

// From the slopes by what an update gave, (n, F) and (n, 3, F), to those by what it was given. No vectors
// came out of the last one that anything depends on: ``slope_v`` is null there.
void update_back(const Network& net, const Layer& layer, int64_t n, const float* scalars, const float* vectors,
                 const float* slope_s, const float* slope_v, float* slopes, Tile& tile, BackTile& back) {
    const int64_t F = net.width;
    update_gates(net, layer, n, scalars, vectors, tile);
    for (int64_t a = 0; a < n; ++a)
        for (int64_t f = 0; f < F; f += W) {
            const float* gate = tile.gates + a * 3 * F + f;
            const vf g = load(slope_s + a * F + f), by_inner = g * load(gate + F), a_vv = load(gate + 2 * F);
            vf inner = vf{}, by_vv = vf{};
            for (int c = 0; c < 3; ++c) {
                const float* uv = tile.mixed + (a * 3 + c) * 2 * F + f;
                float* by_uv = back.mixed + (a * 3 + c) * 2 * F + f;
                const vf u = load(uv), v = load(uv + F);
                const vf gv = slope_v ? load(slope_v + (a * 3 + c) * F + f) : vf{};
                inner += u * v;
                by_vv += gv * u;
                store(by_uv, gv * a_vv + by_inner * v);
                store(by_uv + F, by_inner * u);
            }
            float* by_gate = back.gates + a * 3 * F + f;
            store(by_gate, g);
            store(by_gate + F, g * inner);
            store(by_gate + 2 * F, by_vv);
        }
    product(n, back.gates, 3 * F, layer.gates_2_back, 3 * F, F, nullptr, back.hidden, F);
    for (int64_t i = 0; i < n * F; i += W)
        store(back.hidden + i, load(back.hidden + i) * silu_slope(load(tile.before + i)));
    product(n, back.hidden, F, layer.gates_1_back, F, 2 * F, nullptr, back.seen, 2 * F);
    for (int64_t a = 0; a < n; ++a)
        for (int64_t f = 0; f < F; f += W) {
            const vf by_length = load(back.seen + a * 2 * F + F + f) / load(tile.seen + a * 2 * F + F + f);
            for (int c = 0; c < 3; ++c) {
                const int64_t at = (a * 3 + c) * 2 * F + F + f;
                store(back.mixed + at, load(back.mixed + at) + by_length * load(tile.mixed + at));
            }
        }
    product(3 * n, back.mixed, 2 * F, layer.mix_back, 2 * F, F, nullptr, back.vectors, F);
    for (int64_t a = 0; a < n; ++a)
        for (int64_t f = 0; f < F; f += W) {
            float* to = slopes + (a * F + f) * 4;
            store(to, load(slope_s + a * F + f) + load(back.seen + a * 2 * F + f));
            for (int c = 0; c < 3; ++c) {
                const int64_t at = (a * 3 + c) * F + f;
                store(to + (1 + c) * W, load(back.vectors + at) + (slope_v ? load(slope_v + at) : vf{}));
            }
        }
}

// From the slopes by what all atoms have after a message to those by the messages (n_atoms, F/W, 5, W) that an atom
// and those after it sent each other, and to those by the pairs (n_pairs, 4): by the place between two knots and by
// the unit vector. Without BOTH, of what the atom sent to all its neighbours: every edge has one that goes back.
template <int N, bool FIRST, bool BOTH>
INLINE void message_back_blocks(const Network& net, const Layer& layer, const Graph& graph, int64_t atom,
                                const Pair* begin, const Pair* end, const float* messages, const float* slopes,
                                int64_t block, float* by_messages, float* by_pair) {
    constexpr int PARTS = FIRST ? 2 : 5;
    const int64_t F = net.width, table_stride = net.n_types * net.n_rows * 3 * W;
    const float* filter = layer.filter + block * table_stride;
    messages += block * PARTS * W;
    slopes += block * 4 * W;
    by_messages += block * 5 * W;
    const auto sent_by = [&](int64_t a) { return messages + (FIRST ? graph.element[a] : a) * (PARTS * F); };
    vf total[N][5] = {};
    for (const Pair* p = begin; p < end; ++p, by_pair += 4) {
        const int64_t j = p->neighbor;
        if (p + AHEAD < end) {
            const int64_t later = p[AHEAD].neighbor;
            prefetch(slopes + later * 4 * F, 4 * N * W);
            if (!FIRST && BOTH) {
                prefetch(sent_by(later), PARTS * N * W);
                prefetch(by_messages + later * 5 * F, 5 * N * W);
            }
        }
        const float *table = filter + int64_t(p->row) * (3 * W), *m_i = sent_by(atom), *m_j = sent_by(j);
        const float *g_i = slopes + atom * 4 * F, *g_j = slopes + j * 4 * F;
        float* by_j = by_messages + j * 5 * F;
        vf by_place = vf{}, by_unit[3] = {};
#pragma GCC unroll 4
        for (int b = 0; b < N; ++b) {
            // What i sent to j, then what j sent to i.
            const vf w_vs = weighted_rows<N_WEIGHTS>(table + W, 3 * W, p->weights);
            const vf w_s = FIRST ? vf{} : weighted_rows<N_WEIGHTS>(table, 3 * W, p->weights);
            const vf w_vv = FIRST ? vf{} : weighted_rows<N_WEIGHTS>(table + 2 * W, 3 * W, p->weights);
            const vf gs_j = load(g_j), from_i = load(m_i + W);
            vf along_j = vf{}, through = vf{};
            for (int c = 0; c < 3; ++c) {
                const vf gj = load(g_j + (1 + c) * W);
                along_j -= gj * p->unit[c];
                by_unit[c] -= gj * from_i * w_vs;
                if (FIRST) continue;
                total[b][2 + c] += gj * w_vv;
                through += gj * load(m_i + (2 + c) * W);
            }
            vf by_s = gs_j * load(m_i), by_vs = along_j * from_i;
            if (!FIRST) {
                total[b][0] += gs_j * w_s;
                total[b][1] += along_j * w_vs;
            }
            if (BOTH) {
                const vf gs_i = load(g_i), from_j = load(m_j + W);
                vf along_i = vf{};
                for (int c = 0; c < 3; ++c) {
                    const vf gi = load(g_i + (1 + c) * W);
                    along_i += gi * p->unit[c];
                    by_unit[c] += gi * from_j * w_vs;
                    if (FIRST) continue;
                    float* to = by_j + (2 + c) * W;
                    store(to, load(to) + gi * w_vv);
                    through += gi * load(m_j + (2 + c) * W);
                }
                by_s += gs_i * load(m_j);
                by_vs += along_i * from_j;
                if (!FIRST) {
                    store(by_j, load(by_j) + gs_i * w_s);
                    store(by_j + W, load(by_j + W) + along_i * w_vs);
                }
            }
            by_place += by_s * weighted_rows<N_WEIGHTS>(table, 3 * W, p->slopes);
            by_place += by_vs * weighted_rows<N_WEIGHTS>(table + W, 3 * W, p->slopes);
            if (!FIRST) by_place += through * weighted_rows<N_WEIGHTS>(table + 2 * W, 3 * W, p->slopes);
            table += table_stride;
            g_i += 4 * W, g_j += 4 * W, m_i += PARTS * W, m_j += PARTS * W, by_j += 5 * W;
        }
        float sums[4];
        sum_four(by_place, by_unit[0], by_unit[1], by_unit[2], sums);
        for (int k = 0; k < 4; ++k) by_pair[k] += sums[k];
    }
    if (FIRST) return;
    by_messages += atom * 5 * F;
    for (int b = 0; b < N; ++b)
        for (int k = 0; k < 5; ++k) {
            float* to = by_messages + (b * 5 + k) * W;
            store(to, load(to) + total[b][k]);
        }
}

template <bool FIRST, bool BOTH>
INLINE void message_back(const Network& net, const Layer& layer, const Graph& graph, int64_t atom, const Pair* begin,
                         const Pair* end, const float* messages, const float* slopes, float* by_messages,
                         float* by_pair) {
    constexpr int N = N_REGISTERS == 32 ? 2 : 1;
    int64_t block = 0;
    for (; block + N <= net.width / W; block += N)
        message_back_blocks<N, FIRST, BOTH>(net, layer, graph, atom, begin, end, messages, slopes, block, by_messages,
                                            by_pair);
    for (; block < net.width / W; ++block)
        message_back_blocks<1, FIRST, BOTH>(net, layer, graph, atom, begin, end, messages, slopes, block, by_messages,
                                            by_pair);
}

// From the slopes by the messages of atoms, and by what they have after the message, to those by what they had
// before it: (n, F) and (n, 3, F).
void messages_back(const Network& net, const Layer& layer, int64_t n, const float* scalars, const float* vectors,
                   const float* by_messages, const float* slopes, float* slope_s, float* slope_v, Tile& tile,
                   BackTile& back) {
    const int64_t F = net.width;
    phi(net, layer, n, scalars, tile);
    for (int64_t a = 0; a < n; ++a)
        for (int64_t f = 0; f < F; f += W) {
            const float* by = by_messages + (a * F + f) * 5;
            const float* g = slopes + (a * F + f) * 4;
            float* to = back.gates + a * 3 * F + f;
            store(to, load(by));
            store(to + F, load(by + W));
            const vf phi_vv = load(tile.gates + a * 3 * F + 2 * F + f);
            vf by_vv = vf{};
            for (int c = 0; c < 3; ++c) {
                const int64_t at = (a * 3 + c) * F + f;
                const vf by_sent = load(by + (2 + c) * W);
                by_vv += by_sent * load(vectors + at);
                store(slope_v + at, load(g + (1 + c) * W) + by_sent * phi_vv);
            }
            store(to + 2 * F, by_vv);
        }
    product(n, back.gates, 3 * F, layer.phi_2_back, 3 * F, F, nullptr, back.hidden, F);
    for (int64_t i = 0; i < n * F; i += W)
        store(back.hidden + i, load(back.hidden + i) * silu_slope(load(tile.before + i)));
    product(n, back.hidden, F, layer.phi_1_back, F, F, nullptr, back.seen, F);
    for (int64_t a = 0; a < n; ++a)
        for (int64_t f = 0; f < F; f += W)
            store(slope_s + a * F + f, load(back.seen + a * F + f) + load(slopes + (a * F + f) * 4));
}

// Energies of atoms and their slopes by the scalars.
void energy_head(const Network& net, int64_t n, const float* scalars, float* energies, float* slope_s, Tile& tile) {
    const int64_t F = net.width, H = net.energy_width;
    product(n, scalars, F, net.energy_1, F, H, net.energy_1_bias, tile.before, H);
    for (int64_t a = 0; a < n; ++a) {
        vf total = vf{};
        for (int64_t f = 0; f < H; f += W) {
            const vf x = load(tile.before + a * H + f), w = load(net.energy_2 + f);
            total += w * silu(x);
            store(tile.hidden + a * H + f, w * silu_slope(x));
        }
        energies[a] = sum(total) + net.energy_2_bias;
    }
    product(n, tile.hidden, H, net.energy_1_back, H, F, nullptr, slope_s, F);
}

// What a conservative pass keeps of the features: after every layer, after every message, and the messages.
struct Trace {
    int64_t n, F, L;
    float *memory;
    float* mid_scalars(int64_t l) const { return memory + l * n * 13 * F; }
    float* mid_vectors(int64_t l) const { return mid_scalars(l) + n * F; }
    float* scalars(int64_t l) const { return mid_scalars(l) + n * 4 * F; }
    float* vectors(int64_t l) const { return mid_scalars(l) + n * 5 * F; }
    float* messages(int64_t l) const { return mid_scalars(l) + n * 8 * F; }  // of layer l + 1
    int64_t floats() const { return L * n * 13 * F; }
};

// What every thread of a call has, beside memory for its own tiles.
struct Call {
    const Network& net;
    const Graph& graph;
    const List* list;
    Pair* pairs;
    int64_t *first, *last;  // (n_atoms,) each
    float* memory;
    float *energies, *edge_slopes, *forces;
    int64_t n_leading, failed;

    // Prepare the pairs of a thread's atoms; false, for all threads alike, where that cannot be done.
    template <bool BOTH>
    bool prepare(Team& team, const Share& share) {
        int64_t led = 0;
        const Tables tables{net.start, net.rows_per_length, net.n_rows};
        if (!prepare_pairs<BOTH>(tables, graph, list, share.begin, share.end, pairs, first, last, &led))
            __atomic_store_n(&failed, 1, __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&n_leading, led, __ATOMIC_SEQ_CST);
        team.wait();
        return !failed && 2 * n_leading == graph.n_edges;
    }

    Share share(const Team& team, int64_t number) const {
        const int64_t n_tiles = (graph.n_atoms + TILE - 1) / TILE;
        return {graph, pairs, first, last, TILE * (n_tiles * number / team.size()),
                smaller(TILE * (n_tiles * (number + 1) / team.size()), graph.n_atoms)};
    }
};

int64_t direct_own_floats(int64_t F) { return Tile::floats(F); }
int64_t conservative_own_floats(int64_t F) { return Tile::floats(F) + BackTile::floats(F) + TILE * 4 * F; }

template <bool BOTH>
void direct(Call& call, Team& team, int64_t number) {
    const Network& net = call.net;
    const int64_t F = net.width, n = call.graph.n_atoms;
    const Share share = call.share(team, number);
    if (!call.prepare<BOTH>(team, share)) return;
    float *scalars = call.memory, *vectors = scalars + n * F, *messages = vectors + n * 3 * F;
    float *next = messages + n * 5 * F, *own = next + n * 5 * F + number * direct_own_floats(F);
    Tile tile(own, F);
    for (int64_t l = 0; l < net.n_layers; ++l) {
        float* to = l + 1 < net.n_layers ? next : nullptr;
        if (l == 0)
            forward_layer<true, BOTH>(net, l, share, net.first_messages, scalars, vectors, scalars, vectors, scalars,
                                      vectors, to, tile);
        else
            forward_layer<false, BOTH>(net, l, share, messages, scalars, vectors, scalars, vectors, scalars, vectors, to,
                                       tile);
        team.wait();
        float* freed = messages;
        messages = next;
        next = freed;
    }
    for (int64_t begin = share.begin; begin < share.end; begin += TILE)
        direct_forces(net, smaller(TILE, share.end - begin), scalars + begin * F, vectors + begin * 3 * F,
                      call.forces + begin * 3, tile);
}

template <bool BOTH>
void conservative(Call& call, Team& team, int64_t number) {
    const Network& net = call.net;
    const Graph& graph = call.graph;
    const int64_t F = net.width, n = graph.n_atoms, L = net.n_layers, n_pairs = BOTH ? graph.n_edges / 2 : graph.n_edges;
    const Share share = call.share(team, number);
    if (!call.prepare<BOTH>(team, share)) return;
    const Trace trace{n, F, L, call.memory};
    float *slopes = call.memory + trace.floats(), *next = slopes + n * 4 * F, *by_messages = next + n * 4 * F;
    float *by_pair = by_messages + n * 5 * F, *own = by_pair + n_pairs * 4 + number * conservative_own_floats(F);
    Tile tile(own, F);
    BackTile back(own + Tile::floats(F), F);
    float *slope_s = own + Tile::floats(F) + BackTile::floats(F), *slope_v = slope_s + TILE * F;
    const Pair* pairs = call.pairs;

    for (int64_t l = 0; l < L; ++l) {
        float* to = l + 1 < L ? trace.messages(l) : nullptr;
        if (l == 0)
            forward_layer<true, BOTH>(net, l, share, net.first_messages, nullptr, nullptr, trace.mid_scalars(l),
                                      trace.mid_vectors(l), trace.scalars(l), trace.vectors(l), to, tile);
        else
            forward_layer<false, BOTH>(net, l, share, trace.messages(l - 1), trace.scalars(l - 1), trace.vectors(l - 1),
                                       trace.mid_scalars(l), trace.mid_vectors(l), trace.scalars(l), trace.vectors(l), to,
                                       tile);
        team.wait();
    }
    for (int64_t begin = share.begin; begin < share.end; begin += TILE) {
        const int64_t m = smaller(TILE, share.end - begin), last = L - 1;
        if (call.forces)
            direct_forces(net, m, trace.scalars(last) + begin * F, trace.vectors(last) + begin * 3 * F,
                          call.forces + begin * 3, tile);
        energy_head(net, m, trace.scalars(last) + begin * F, call.energies + begin, slope_s, tile);
        update_back(net, net.layers[last], m, trace.mid_scalars(last) + begin * F, trace.mid_vectors(last) + begin * 3 * F,
                    slope_s, nullptr, slopes + begin * 4 * F, tile, back);
    }
    for (int64_t a = share.begin; a < share.end; ++a)
        memset(by_pair + call.first[a] * 4, 0, (call.last[a] - call.first[a]) * 4 * sizeof(float));
    team.wait();
    for (int64_t l = L - 1; l >= 0; --l) {
        const Layer& layer = net.layers[l];
        if (l > 0) memset(by_messages + share.begin * 5 * F, 0, (share.end - share.begin) * 5 * F * sizeof(float));
        for (int64_t begin = share.begin; begin < share.end; begin += TILE) {
            const int64_t m = smaller(TILE, share.end - begin);
            for (int64_t a = begin; a < begin + m; ++a) {
                const Pair *from = pairs + call.first[a], *to = pairs + call.last[a];
                float* by = by_pair + call.first[a] * 4;
                if (l == 0)
                    message_back<true, BOTH>(net, layer, graph, a, from, to, net.first_messages, slopes, by_messages, by);
                else
                    message_back<false, BOTH>(net, layer, graph, a, from, to, trace.messages(l - 1), slopes, by_messages,
                                              by);
            }
            if (l == 0) continue;
            messages_back(net, layer, m, trace.scalars(l - 1) + begin * F, trace.vectors(l - 1) + begin * 3 * F,
                          by_messages + begin * 5 * F, slopes + begin * 4 * F, slope_s, slope_v, tile, back);
            update_back(net, net.layers[l - 1], m, trace.mid_scalars(l - 1) + begin * F,
                        trace.mid_vectors(l - 1) + begin * 3 * F, slope_s, slope_v, next + begin * 4 * F, tile, back);
        }
        team.wait();
        float* freed = slopes;
        slopes = next;
        next = freed;
    }
    if (BOTH) memset(call.edge_slopes, 0, graph.n_edges * 3 * sizeof(float));
    for (int64_t a = share.begin; a < share.end; ++a)
        for (int64_t p = call.first[a]; p < call.last[a]; ++p) {
            const float *u = pairs[p].unit, *h = by_pair + 4 * p + 1, by_d = h[-1] * net.rows_per_length;
            const float inner = h[0] * u[0] + h[1] * u[1] + h[2] * u[2];
            for (int c = 0; c < 3; ++c)
                call.edge_slopes[3 * pairs[p].edge + c] = by_d * u[c] + (h[c] - inner * u[c]) * pairs[p].per_length;
        }
}

// On several threads, or on this one.
template <typename Pairwise, typename Gathered>
int64_t run(Call& call, int64_t n_threads, Pairwise pairwise, Gathered gathered) {
    if (n_threads > 1) {
        const auto work = [&](Team& team, int64_t number) { gathered(call, team, number); };
        Team::run(smaller(n_threads, (call.graph.n_atoms + TILE - 1) / TILE), work);
    } else {
        const auto work = [&](Team& team, int64_t number) { pairwise(call, team, number); };
        Team::run(1, work);
    }
    return !call.failed && 2 * call.n_leading == call.graph.n_edges;
}

}  // namespace

extern "C" {

// Bytes and floats of workspace that the functions below need; pairs are half as many as edges on one thread.
int64_t kg_painn_pair_bytes() { return sizeof(Pair); }
int64_t kg_painn_direct_floats(const Network* net, int64_t n_atoms, int64_t n_threads) {
    return n_atoms * 14 * net->width + n_threads * direct_own_floats(net->width);
}
int64_t kg_painn_conservative_floats(const Network* net, int64_t n_atoms, int64_t n_threads, int64_t n_edges) {
    const int64_t F = net->width;
    return Trace{n_atoms, F, net->n_layers, nullptr}.floats() + n_atoms * 13 * F + n_edges * (n_threads > 1 ? 4 : 2) +
           n_threads * conservative_own_floats(F);
}

// Energies of atoms (n_atoms,), their sum's slopes by edge vectors (n_edges, 3), and forces (n_atoms, 3) of the
// direct head unless null. The slope by both edges of a pair may stand at one of them. ``ranges`` is for (2, n_atoms)
// numbers. Returns 0 where pairs cannot be prepared.
int64_t kg_painn_conservative(const Network* net, const Graph* graph, int64_t n_threads, void* pair_memory,
                              int64_t* ranges, float* memory, float* energies, float* edge_slopes, float* forces) {
    Call call{*net, *graph, nullptr, (Pair*)pair_memory, ranges, ranges + graph->n_atoms, memory, energies,
              edge_slopes, forces, 0, 0};
    return run(call, n_threads, conservative<true>, conservative<false>);
}

// Forces (n_atoms, 3) by the direct head, of a graph, or, where ``list`` is not null, of a list, whose forces come by
// places. Returns 0 where pairs cannot be prepared.
int64_t kg_painn_direct(const Network* net, const Graph* graph, const List* list, int64_t n_threads, void* pair_memory,
                        int64_t* ranges, float* memory, float* forces) {
    Call call{*net, *graph, list, (Pair*)pair_memory, ranges, ranges + graph->n_atoms, memory, nullptr, nullptr, forces,
              0, 0};
    return run(call, n_threads, direct<true>, direct<false>);
}
}

// GNNFF for running: the update of atoms, the update of edges with its sum over triplets, and the force head,
// each one pass over tiles that stay in cache. Energies are differentiated by the reverse passes below, which make
// what stands before the gates again rather than keep it.
//
// A triplet i → j → k adds σ(a + b) tanh(a' + b'), where a, a' belong to the first edge and b, b' to the
// second. Here edges carry s = −a and t = 2 a' (signs and factors are in the weights), of which
//
//     σ tanh = (e^t e^t' − 1) / ((1 + e^s e^s') (e^t e^t' + 1)):
//
// exponentials are taken once per edge, and a triplet costs one reciprocal. That holds while no s or t of the two
// edges exceeds LARGEST in size; where one does the sum is taken with exponentials per triplet.
//
// The pass goes from middle atom to middle atom: its own edges, the second ones, lie together and are
// prepared in cache; the edges that end at it, the first ones, are found by a list.
//
// Layout, with F and G the widths of atoms and edges padded to whole registers: states (n_atoms, F) and
// (n_edges, G); what goes into a gate has the columns of s, then those of t. In columns of padding s = t = 0, and
// the gate is zero.
#include "product.h"

namespace {

constexpr int64_t TILE = 48;
constexpr float LARGEST = 21.0f;  // (1 + e^42)(1 + e^42) < 3.1e36: neither it nor a factor leaves the range of floats

struct Layer {
    const float *pair_node, *pair_bias, *pair_edge;  // F → 2F with bias, G → 2F; packed, as all that follow
    const float *node_scale, *node_shift;            // (F,) of the sum of messages
    const float *two_body, *two_body_bias;           // F → 2G
    const float *ends, *ends_bias;                   // F → 6G: what i, j and k add to a triplet
    const float *first, *second;                     // G → 2G
    const float *pair_scale, *sum_scale, *shift;     // (G,) of the two-body part, of the sum, of both
    // The same transposed, for the way back, where there is one. Then the scales are 1 and the shifts 0.
    const float *pair_node_back, *pair_edge_back, *two_body_back, *ends_back, *first_back, *second_back;
};

struct HeadLayer {
    const float *weights, *bias;
    int64_t n_in, n_out;
};

struct Network {
    int64_t width, edge_width, n_layers;  // F, G
    int64_t updated_nodes, way_back;
    const float *centers, *sharpness;     // (G,) Gaussians exp(−sharpness (d − centre)²)
    const Layer* layers;
    int64_t n_hidden;                     // layers of the force head before the last
    const HeadLayer* head;
    const float* last;                    // (n_out of the last hidden layer,)
    float last_bias, outward;
};

struct Graph {
    int64_t n_atoms, n_edges;
    const int64_t *center, *neighbor;           // (n_edges,) sorted by centre
    const float *vectors, *distances, *envelope;  // (n_edges, 3), (n_edges,), (n_edges,) or null
    const int64_t *first;                       // (n_atoms + 1,) where the edges of an atom begin
    const int64_t *first_incoming, *incoming;   // (n_atoms + 1,), (n_edges,): the edges that end at an atom
};

// σ(−s) tanh(t/2). Beyond 40 both are as good as their limits: they differ by less than 1e-17.
INLINE vf gate(vf s, vf t) {
    const vf high = all(40.0f);
    const vf open = 1.0f + exp(s > high ? high : s), q = exp(t > high ? high : t);
    return (q - 1.0f) * reciprocal(open * (q + 1.0f));
}

INLINE vf tanh(vf x) {
    const vf high = all(40.0f), t = x + x;
    return 1.0f - 2.0f * reciprocal(exp(t > high ? high : t) + 1.0f);
}

// log(1 + e^x) − log 2.
INLINE vf shifted_softplus(vf x) {
    const vf size = x < 0.0f ? -x : x, y = exp(-size);
    const vf z = y / (2.0f + y), z2 = z * z;  // log(1 + y) = 2 artanh z, z ≤ 1/3: a series that ends at 1e-9
    vf p = all(1.0f / 15.0f);
    p = p * z2 + 1.0f / 13.0f;
    p = p * z2 + 1.0f / 11.0f;
    p = p * z2 + 1.0f / 9.0f;
    p = p * z2 + 1.0f / 7.0f;
    p = p * z2 + 1.0f / 5.0f;
    p = p * z2 + 1.0f / 3.0f;
    p = p * z2 + 1.0f;
    return (x < 0.0f ? vf{} : x) + 2.0f * z * p - 0.69314718f;
}

void gaussians(const Network& net, int64_t n, const float* distances, float* edges) {
    const int64_t G = net.edge_width;
    for (int64_t e = 0; e < n; ++e)
        for (int64_t g = 0; g < G; g += W) {
            const vf x = distances[e] - load(net.centers + g);
            store(edges + e * G + g, exp(-load(net.sharpness + g) * (x * x)));
        }
}

int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }

// out = rows · Wᵀ + bias in tiles.
void tiled_product(int64_t n_rows, const float* rows, int64_t n_in, const float* weights, int64_t n_out,
                   const float* bias, float* out) {
    for (int64_t begin = 0; begin < n_rows; begin += TILE)
        product(smaller(TILE, n_rows - begin), rows + begin * n_in, n_in, weights, n_in, n_out, bias,
                out + begin * n_out, n_out);
}

// out += rows · Wᵀ.
void add_tiled_product(int64_t n_rows, const float* rows, int64_t n_in, const float* weights, int64_t n_out,
                       float* out) {
    for (int64_t begin = 0; begin < n_rows; begin += TILE)
        product<Activation::NONE, true>(smaller(TILE, n_rows - begin), rows + begin * n_in, n_in, weights, n_in, n_out,
                                        nullptr, out + begin * n_out, n_out);
}

// ---- atoms -------------------------------------------------------------------------------------------

// after (n_atoms, F) = tanh[before + Σ_j gate]; ``of_nodes`` has room for (n_atoms, 2F), ``tile`` for (TILE, 2F).
void update_nodes(const Network& net, const Layer& layer, const Graph& graph, const float* edges, const float* before,
                  float* after, float* of_nodes, float* tile) {
    const int64_t F = net.width, G = net.edge_width;
    tiled_product(graph.n_atoms, before, F, layer.pair_node, 2 * F, layer.pair_bias, of_nodes);
    memset(after, 0, size_t(graph.n_atoms * F) * sizeof(float));
    for (int64_t begin = 0; begin < graph.n_edges; begin += TILE) {
        const int64_t n = smaller(TILE, graph.n_edges - begin);
        product(n, edges + begin * G, G, layer.pair_edge, G, 2 * F, nullptr, tile, 2 * F);
        for (int64_t e = 0; e < n; ++e) {
            const int64_t i = graph.center[begin + e];
            const float *row = tile + e * 2 * F, *own = of_nodes + i * 2 * F;
            const float weight = graph.envelope ? graph.envelope[begin + e] : 1.0f;
            for (int64_t f = 0; f < F; f += W) {
                const vf x = gate(load(row + f) + load(own + f), load(row + F + f) + load(own + F + f));
                store(after + i * F + f, load(after + i * F + f) + weight * x);
            }
        }
    }
    for (int64_t a = 0; a < graph.n_atoms * F; a += F)
        for (int64_t f = 0; f < F; f += W)
            store(after + a + f, tanh(load(before + a + f) + load(after + a + f) * load(layer.node_scale + f) +
                                      load(layer.node_shift + f)));
}

// ---- edges -------------------------------------------------------------------------------------------

INLINE vf larger_size(vf largest, vf x) {
    const vf size = x < 0.0f ? -x : x;
    return size > largest ? size : largest;
}

INLINE bool within(vf sizes) {
    float part[W];
    store(part, sizes);
    bool yes = true;
    for (int i = 0; i < W; ++i) yes &= part[i] <= LARGEST;
    return yes;
}

// What a middle atom's own edges are when they come second: before and after the exponential, (n, 2G) each.
struct Second {
    const float *before, *exponentials, *envelope;
    int64_t n, way_back;  // the row that goes back, −1 for none that is left out
};

template <int N, bool ENVELOPE>
INLINE void add_triplets(const Second& second, int64_t begin, int64_t end, int64_t G, const float* first, vf* total) {
    vf a[N], q[N];
#pragma GCC unroll 4
    for (int b = 0; b < N; ++b) a[b] = load(first + b * W), q[b] = load(first + G + b * W);
    for (int64_t k = begin; k < end; ++k) {
        const float* row = second.exponentials + k * 2 * G;
#pragma GCC unroll 4
        for (int b = 0; b < N; ++b) {
            const vf open = a[b] * load(row + b * W) + 1.0f, core = q[b] * load(row + G + b * W) + 1.0f;
            const vf top = ENVELOPE ? second.envelope[k] * (core - 2.0f) : core - 2.0f;
            total[b] += top * reciprocal(open * core);
        }
    }
}

template <int N, bool ENVELOPE>
INLINE void sum_of_columns(Second second, int64_t f, int64_t G, const float* first, float* out) {
    vf total[N];
    for (int b = 0; b < N; ++b) total[b] = vf{};
    second.exponentials += f;
    const int64_t skip = second.way_back < 0 ? second.n : second.way_back;
    add_triplets<N, ENVELOPE>(second, 0, skip, G, first + f, total);
    add_triplets<N, ENVELOPE>(second, skip + 1, second.n, G, first + f, total);
    for (int b = 0; b < N; ++b) store(out + f + b * W, total[b]);
}

// out (G,) = Σ_k over the second edges; ``first`` (2G,) holds exponentials.
template <bool ENVELOPE>
void triplet_sum(const Second& second, int64_t G, const float* first, float* out) {
    int64_t f = 0;
    for (; f + 2 * W <= G; f += 2 * W) sum_of_columns<2, ENVELOPE>(second, f, G, first, out);
    for (; f < G; f += W) sum_of_columns<1, ENVELOPE>(second, f, G, first, out);
}

// The same from what stands in the exponents.
void guarded_triplet_sum(const Second& second, int64_t G, const float* first, float* out) {
    for (int64_t f = 0; f < G; f += W) {
        vf total = vf{};
        for (int64_t k = 0; k < second.n; ++k) {
            if (k == second.way_back) continue;
            const float* row = second.before + k * 2 * G + f;
            const vf x = gate(load(first + f) + load(row), load(first + G + f) + load(row + G));
            total += second.envelope ? second.envelope[k] * x : x;
        }
        store(out + f, total);
    }
}

// Among the edges of j the one that goes the way of edge ``e`` back; −1 if there is none. Vectors there and back
// are each other's negatives to the bit, and two images of one atom are never in one place.
int64_t edge_back(const Graph& graph, int64_t e) {
    const int64_t i = graph.center[e], j = graph.neighbor[e];
    const float* there = graph.vectors + 3 * e;
    for (int64_t b = graph.first[j]; b < graph.first[j + 1]; ++b) {
        const float* back = graph.vectors + 3 * b;
        if (graph.neighbor[b] == i && back[0] == -there[0] && back[1] == -there[1] && back[2] == -there[2])
            return b - graph.first[j];
    }
    return -1;
}

// Workspace of the pass over edges; ``rows`` is for the own edges of the middle atoms of a tile.
struct Tile {
    float *second, *exponentials, *states, *first, *ends, *pair, *total;
    static int64_t floats(int64_t rows, int64_t F, int64_t G) { return rows * 4 * G + TILE * (5 * G + F) + G; }
    Tile(float* memory, int64_t rows, int64_t F, int64_t G)
        : second(memory), exponentials(second + rows * 2 * G), states(exponentials + rows * 2 * G),
          first(states + TILE * G), ends(first + TILE * 2 * G), pair(ends + TILE * F), total(pair + TILE * 2 * G) {}
};

// Rows that a tile's own edges need, for the largest number of edges that an atom has.
int64_t tile_rows(int64_t most) { return larger_of(most, TILE); }

// The middle atoms from ``from`` to before the one returned have so many own edges at most.
int64_t last_of_tile(const Graph& graph, int64_t from, int64_t rows) {
    int64_t to = from + 1;
    while (to < graph.n_atoms && graph.first[to + 1] - graph.first[from] <= rows) ++to;
    return to;
}

// States of incoming edges, and h_i ∘ h_j of their ends unless ``states_only``.
void gather_first(const Network& net, const Graph& graph, int64_t n, const int64_t* incoming, const float* nodes,
                  const float* edges, const Tile& tile, bool states_only) {
    const int64_t F = net.width, G = net.edge_width;
    for (int64_t r = 0; r < n; ++r) {
        const int64_t e = incoming[r];
        const float *hi = nodes + graph.center[e] * F, *hj = nodes + graph.neighbor[e] * F, *state = edges + e * G;
        for (int64_t f = 0; f < G; f += W) store(tile.states + r * G + f, load(state + f));
        if (states_only) continue;
        for (int64_t f = 0; f < F; f += W) store(tile.ends + r * F + f, load(hi + f) * load(hj + f));
    }
}

// The second role of the edges from ``begin`` to ``end``. Returns whether all stay within LARGEST.
bool prepare_second(const Graph& graph, int64_t begin, int64_t end, int64_t G, const float* of_ends, float* rows,
                    float* exponentials) {
    vf sizes = vf{};
    for (int64_t e = begin; e < end; ++e, rows += 2 * G, exponentials += 2 * G) {
        const float* far = of_ends + graph.neighbor[e] * 6 * G + 4 * G;
        for (int64_t f = 0; f < 2 * G; f += W) {
            const vf x = load(rows + f) + load(far + f);
            sizes = larger_size(sizes, x);
            store(rows + f, x);
            store(exponentials + f, exp(x));
        }
    }
    return within(sizes);
}

// Add to an edge's part of its first role what its ends add. Returns whether it stays within LARGEST.
INLINE bool prepare_first(int64_t G, const float* of_i, const float* of_j, float* row) {
    vf sizes = vf{};
    for (int64_t f = 0; f < 2 * G; f += W) {
        const vf x = load(row + f) + load(of_i + f) + load(of_j + 2 * G + f);
        sizes = larger_size(sizes, x);
        store(row + f, x);
    }
    return within(sizes);
}

// after (n_edges, G) = tanh[before + two-body + Σ_k three-body]. ``nodes`` are what c² and c³ hold; ``of_ends`` has
// room for (n_atoms, 6G). With ``three_body_only`` the sum over triplets alone.
void update_edges(const Network& net, const Layer& layer, const Graph& graph, const float* nodes, const float* before,
                  float* after, float* of_ends, const Tile& tile, int64_t rows, bool three_body_only) {
    const int64_t F = net.width, G = net.edge_width;
    tiled_product(graph.n_atoms, nodes, F, layer.ends, 6 * G, layer.ends_bias, of_ends);
    for (int64_t from = 0, to; from < graph.n_atoms; from = to) {
        to = last_of_tile(graph, from, rows);
        const int64_t own = graph.first[from];
        product(graph.first[to] - own, before + own * G, G, layer.second, G, 2 * G, nullptr, tile.second, 2 * G);

        int64_t prepared = from;  // atoms whose second edges are ready
        bool second_within = true;
        for (int64_t begin = graph.first_incoming[from]; begin < graph.first_incoming[to]; begin += TILE) {
            const int64_t n = smaller(TILE, graph.first_incoming[to] - begin);
            const int64_t* incoming = graph.incoming + begin;
            gather_first(net, graph, n, incoming, nodes, before, tile, three_body_only);
            product(n, tile.states, G, layer.first, G, 2 * G, nullptr, tile.first, 2 * G);
            if (!three_body_only)
                product(n, tile.ends, F, layer.two_body, F, 2 * G, layer.two_body_bias, tile.pair, 2 * G);
            for (int64_t r = 0; r < n; ++r) {
                const int64_t e = incoming[r], j = graph.neighbor[e], at = (graph.first[j] - own) * 2 * G;
                if (prepared <= j) {
                    second_within = prepare_second(graph, graph.first[j], graph.first[j + 1], G, of_ends,
                                                   tile.second + at, tile.exponentials + at);
                    prepared = j + 1;
                }
                const Second second{tile.second + at, tile.exponentials + at,
                                    graph.envelope ? graph.envelope + graph.first[j] : nullptr,
                                    graph.first[j + 1] - graph.first[j], net.way_back ? -1 : edge_back(graph, e)};
                float* row = tile.first + r * 2 * G;
                const bool first_within =
                    prepare_first(G, of_ends + graph.center[e] * 6 * G, of_ends + j * 6 * G, row);
                float* total = three_body_only ? after + e * G : tile.total;
                if (first_within && second_within) {
                    for (int64_t f = 0; f < 2 * G; f += W) store(row + f, exp(load(row + f)));
                    if (second.envelope)
                        triplet_sum<true>(second, G, row, total);
                    else
                        triplet_sum<false>(second, G, row, total);
                } else
                    guarded_triplet_sum(second, G, row, total);
                if (three_body_only) continue;
                const float *pair = tile.pair + r * 2 * G, *state = tile.states + r * G;
                for (int64_t f = 0; f < G; f += W) {
                    const vf x = load(state + f) + gate(load(pair + f), load(pair + G + f)) * load(layer.pair_scale + f) +
                                 load(total + f) * load(layer.sum_scale + f) + load(layer.shift + f);
                    store(after + e * G + f, tanh(x));
                }
            }
        }
    }
}

// ---- forces ------------------------------------------------------------------------------------------

// forces (n_atoms, 3) = Σ_j outward f_f(h_ij) along the edge. ``tiles`` have room for two of (TILE, largest).
void edge_forces(const Network& net, const Graph& graph, const float* edges, float* forces, float* tiles,
                 int64_t largest) {
    memset(forces, 0, size_t(graph.n_atoms * 3) * sizeof(float));
    for (int64_t begin = 0; begin < graph.n_edges; begin += TILE) {
        const int64_t n = smaller(TILE, graph.n_edges - begin);
        const float* from = edges + begin * net.edge_width;
        int64_t width = net.edge_width;
        for (int64_t l = 0; l < net.n_hidden; ++l) {
            const HeadLayer& layer = net.head[l];
            float* to = tiles + (l % 2) * TILE * largest;
            product(n, from, layer.n_in, layer.weights, layer.n_in, layer.n_out, layer.bias, to, layer.n_out);
            for (int64_t x = 0; x < n * layer.n_out; x += W) store(to + x, shifted_softplus(load(to + x)));
            from = to;
            width = layer.n_out;
        }
        for (int64_t e = 0; e < n; ++e) {
            vf part = vf{};
            for (int64_t f = 0; f < width; f += W) part += load(from + e * width + f) * load(net.last + f);
            float scalar = net.outward * (sum(part) + net.last_bias) / graph.distances[begin + e];
            if (graph.envelope) scalar *= graph.envelope[begin + e];
            float* force = forces + 3 * graph.center[begin + e];
            for (int c = 0; c < 3; ++c) force[c] += scalar * graph.vectors[3 * (begin + e) + c];
        }
    }
}

int64_t largest_head(const Network& net) {
    int64_t largest = 0;
    for (int64_t l = 0; l < net.n_hidden; ++l)
        if (net.head[l].n_out > largest) largest = net.head[l].n_out;
    return largest;
}

int64_t tile_floats(const Network& net, int64_t most) {
    const int64_t edges = Tile::floats(tile_rows(most), net.width, net.edge_width);
    const int64_t nodes = TILE * 2 * net.width, head = 2 * TILE * largest_head(net);
    return larger_of(edges, larger_of(nodes, head));
}

// ---- backwards ---------------------------------------------------------------------------------------

// A gate and its derivatives by s and t, from 1 + e^s and 1 + e^t.
struct GateSlopes {
    vf value, by_s, by_t;
};

INLINE GateSlopes gate_slopes(vf open, vf core) {
    const vf r = reciprocal(open * core), value = (core - 2.0f) * r, sigma = core * r, tanh = value * open;
    return {value, value * sigma - value, 0.5f * sigma * (1.0f - tanh * tanh)};
}

INLINE GateSlopes gate_slopes_at(vf s, vf t) {
    const vf high = all(40.0f);
    return gate_slopes(1.0f + exp(s > high ? high : s), 1.0f + exp(t > high ? high : t));
}

// From derivatives by ``after``, the states before and after: those by ``before`` and by the edges' states, and by
// the envelope, all added to what is there. ``of_nodes`` and ``by_of_nodes`` have room for (n_atoms, 2F).
void update_nodes_back(const Network& net, const Layer& layer, const Graph& graph, const float* edges,
                       const float* before, const float* after, const float* by_after, float* by_before, float* by_edges,
                       float* by_envelope, float* of_nodes, float* by_of_nodes, float* tile) {
    const int64_t F = net.width, G = net.edge_width;
    tiled_product(graph.n_atoms, before, F, layer.pair_node, 2 * F, layer.pair_bias, of_nodes);
    memset(by_of_nodes, 0, size_t(graph.n_atoms * 2 * F) * sizeof(float));
    for (int64_t begin = 0; begin < graph.n_edges; begin += TILE) {
        const int64_t n = smaller(TILE, graph.n_edges - begin);
        product(n, edges + begin * G, G, layer.pair_edge, G, 2 * F, nullptr, tile, 2 * F);
        for (int64_t e = 0; e < n; ++e) {
            const int64_t i = graph.center[begin + e];
            const float weight = graph.envelope[begin + e];
            const float *own = of_nodes + i * 2 * F, *state = after + i * F, *by = by_after + i * F;
            float *row = tile + e * 2 * F, *to = by_of_nodes + i * 2 * F;
            vf by_weight = vf{};
            for (int64_t f = 0; f < F; f += W) {
                const GateSlopes slopes =
                    gate_slopes_at(load(row + f) + load(own + f), load(row + F + f) + load(own + F + f));
                const vf h = load(state + f), by_sum = load(by + f) * (1.0f - h * h);
                by_weight += by_sum * slopes.value;
                const vf s = weight * (by_sum * slopes.by_s), t = weight * (by_sum * slopes.by_t);
                store(row + f, s);
                store(row + F + f, t);
                store(to + f, load(to + f) + s);
                store(to + F + f, load(to + F + f) + t);
            }
            by_envelope[begin + e] += sum(by_weight);
        }
        product<Activation::NONE, true>(n, tile, 2 * F, layer.pair_edge_back, 2 * F, G, nullptr, by_edges + begin * G, G);
    }
    for (int64_t a = 0; a < graph.n_atoms * F; a += W) {
        const vf h = load(after + a);
        store(by_before + a, load(by_before + a) + load(by_after + a) * (1.0f - h * h));
    }
    add_tiled_product(graph.n_atoms, by_of_nodes, 2 * F, layer.pair_node_back, F, by_before);
}

// Derivatives of the sum over triplets of an edge: by what is its own (2G,), and, added to what is there, by what is
// the second edges' (n, 2G), before the envelope's factor, and by the envelope (n, W). With EXPONENTIALS as they are
// in the sum; else from what stands in the exponents.
template <bool EXPONENTIALS>
void triplet_sum_back(const Second& second, int64_t G, const float* first, const float* by_sum, float* by_first,
                      float* by_second, float* by_envelope) {
    const float* rows = EXPONENTIALS ? second.exponentials : second.before;
    for (int64_t f = 0; f < G; f += W) {
        const vf s = load(first + f), t = load(first + G + f), by = load(by_sum + f);
        vf by_s = vf{}, by_t = vf{};
        for (int64_t k = 0; k < second.n; ++k) {
            if (k == second.way_back) continue;
            const float* row = rows + k * 2 * G + f;
            const GateSlopes slopes = EXPONENTIALS
                                          ? gate_slopes(s * load(row) + 1.0f, t * load(row + G) + 1.0f)
                                          : gate_slopes_at(s + load(row), t + load(row + G));
            by_s += second.envelope[k] * slopes.by_s;
            by_t += second.envelope[k] * slopes.by_t;
            float* to = by_second + k * 2 * G + f;
            store(to, load(to) + by * slopes.by_s);
            store(to + G, load(to + G) + by * slopes.by_t);
            store(by_envelope + k * W, load(by_envelope + k * W) + by * slopes.value);
        }
        store(by_first + f, by * by_s);
        store(by_first + G + f, by * by_t);
    }
}

// Workspace of the pass back over edges, behind that of the pass forth.
struct TileBack {
    float *by_sum, *by_first, *by_ends, *by_second, *by_envelope;
    static int64_t floats(int64_t rows, int64_t F, int64_t G) { return TILE * (3 * G + F) + rows * (2 * G + W); }
    TileBack(float* memory, int64_t rows, int64_t F, int64_t G)
        : by_sum(memory), by_first(by_sum + TILE * G), by_ends(by_first + TILE * 2 * G), by_second(by_ends + TILE * F),
          by_envelope(by_second + rows * 2 * G) {}
};

INLINE void add_to(float* to, const float* x, int64_t n) {
    for (int64_t i = 0; i < n; i += W) store(to + i, load(to + i) + load(x + i));
}

// From derivatives by ``after``: those by ``before``, by the atoms' states and by the envelope, all added to what is
// there. ``of_ends`` and ``by_of_ends`` have room for (n_atoms, 6G).
void update_edges_back(const Network& net, const Layer& layer, const Graph& graph, const float* nodes,
                       const float* before, const float* after, const float* by_after, float* by_before,
                       float* by_nodes, float* by_envelope, float* of_ends, float* by_of_ends, const Tile& tile,
                       const TileBack& back, int64_t rows) {
    const int64_t F = net.width, G = net.edge_width;
    tiled_product(graph.n_atoms, nodes, F, layer.ends, 6 * G, layer.ends_bias, of_ends);
    memset(by_of_ends, 0, size_t(graph.n_atoms * 6 * G) * sizeof(float));
    for (int64_t from = 0, to; from < graph.n_atoms; from = to) {
        to = last_of_tile(graph, from, rows);
        const int64_t own = graph.first[from], n_own = graph.first[to] - own;
        product(n_own, before + own * G, G, layer.second, G, 2 * G, nullptr, tile.second, 2 * G);
        memset(back.by_second, 0, size_t(n_own * 2 * G) * sizeof(float));
        memset(back.by_envelope, 0, size_t(n_own * W) * sizeof(float));

        int64_t prepared = from;
        bool second_within = true;
        for (int64_t begin = graph.first_incoming[from]; begin < graph.first_incoming[to]; begin += TILE) {
            const int64_t n = smaller(TILE, graph.first_incoming[to] - begin);
            const int64_t* incoming = graph.incoming + begin;
            gather_first(net, graph, n, incoming, nodes, before, tile, false);
            product(n, tile.states, G, layer.first, G, 2 * G, nullptr, tile.first, 2 * G);
            product(n, tile.ends, F, layer.two_body, F, 2 * G, layer.two_body_bias, tile.pair, 2 * G);
            for (int64_t r = 0; r < n; ++r) {
                const int64_t e = incoming[r], j = graph.neighbor[e], at = graph.first[j] - own;
                if (prepared <= j) {
                    second_within = prepare_second(graph, graph.first[j], graph.first[j + 1], G, of_ends,
                                                   tile.second + at * 2 * G, tile.exponentials + at * 2 * G);
                    prepared = j + 1;
                }
                const Second second{tile.second + at * 2 * G, tile.exponentials + at * 2 * G,
                                    graph.envelope + graph.first[j], graph.first[j + 1] - graph.first[j],
                                    net.way_back ? -1 : edge_back(graph, e)};
                float *row = tile.first + r * 2 * G, *pair = tile.pair + r * 2 * G, *by_sum = back.by_sum + r * G;
                for (int64_t f = 0; f < G; f += W) {
                    const vf x = load(after + e * G + f), by = load(by_after + e * G + f) * (1.0f - x * x);
                    const GateSlopes slopes = gate_slopes_at(load(pair + f), load(pair + G + f));
                    store(by_sum + f, by);
                    store(pair + f, by * slopes.by_s);
                    store(pair + G + f, by * slopes.by_t);
                }
                const bool first_within =
                    prepare_first(G, of_ends + graph.center[e] * 6 * G, of_ends + j * 6 * G, row);
                float *by_second = back.by_second + at * 2 * G, *by_weight = back.by_envelope + at * W;
                if (first_within && second_within) {
                    for (int64_t f = 0; f < 2 * G; f += W) store(row + f, exp(load(row + f)));
                    triplet_sum_back<true>(second, G, row, by_sum, back.by_first + r * 2 * G, by_second, by_weight);
                } else
                    triplet_sum_back<false>(second, G, row, by_sum, back.by_first + r * 2 * G, by_second, by_weight);
            }
            product<Activation::NONE, true>(n, back.by_first, 2 * G, layer.first_back, 2 * G, G, nullptr, back.by_sum, G);
            product(n, tile.pair, 2 * G, layer.two_body_back, 2 * G, F, nullptr, back.by_ends, F);
            for (int64_t r = 0; r < n; ++r) {
                const int64_t e = incoming[r], i = graph.center[e], j = graph.neighbor[e];
                add_to(by_before + e * G, back.by_sum + r * G, G);
                add_to(by_of_ends + i * 6 * G, back.by_first + r * 2 * G, 2 * G);
                add_to(by_of_ends + j * 6 * G + 2 * G, back.by_first + r * 2 * G, 2 * G);
                for (int64_t f = 0; f < F; f += W) {
                    const vf by = load(back.by_ends + r * F + f);
                    float *to_i = by_nodes + i * F + f, *to_j = by_nodes + j * F + f;
                    store(to_i, load(to_i) + by * load(nodes + j * F + f));
                    store(to_j, load(to_j) + by * load(nodes + i * F + f));
                }
            }
        }

        for (int64_t k = 0; k < n_own; ++k) {
            float* row = back.by_second + k * 2 * G;
            const float weight = graph.envelope[own + k];
            for (int64_t f = 0; f < 2 * G; f += W) store(row + f, weight * load(row + f));
            add_to(by_of_ends + graph.neighbor[own + k] * 6 * G + 4 * G, row, 2 * G);
            by_envelope[own + k] += sum(load(back.by_envelope + k * W));
        }
        product<Activation::NONE, true>(n_own, back.by_second, 2 * G, layer.second_back, 2 * G, G, nullptr,
                                        by_before + own * G, G);
    }
    add_tiled_product(graph.n_atoms, by_of_ends, 6 * G, layer.ends_back, F, by_nodes);
}

// What a conservative call keeps: states of atoms and edges before the first layer and after each, what atoms bring to
// products and derivatives by it, derivatives by states before and after a layer, and tiles.
struct Kept {
    float *nodes, *edges, *of_atoms, *by_of_atoms, *by_nodes[2], *by_edges[2], *tiles;
    int64_t n_floats;
    Kept(const Network& net, int64_t n_atoms, int64_t n_edges, int64_t most, float* memory) {
        const int64_t F = net.width, G = net.edge_width, rows = tile_rows(most);
        float* at = memory;
        const auto take = [&at](int64_t n) { return (at += n) - n; };
        nodes = take((net.n_layers + 1) * n_atoms * F);
        edges = take((net.n_layers + 1) * n_edges * G);
        of_atoms = take(n_atoms * larger_of(2 * F, 6 * G));
        by_of_atoms = take(n_atoms * larger_of(2 * F, 6 * G));
        for (float*& by : by_nodes) by = take(n_atoms * F);
        for (float*& by : by_edges) by = take(n_edges * G);
        tiles = take(tile_floats(net, most) + TileBack::floats(rows, F, G));
        n_floats = at - memory;
    }
};

}  // namespace

extern "C" {

// Where the edges of each atom begin, (n_atoms + 1,); the edges that end at each atom, in order (n_edges,), and
// where those of an atom begin, (n_atoms + 1,). Returns the largest number of edges that an atom has.
int64_t kg_gnnff_edges(int64_t n_atoms, int64_t n_edges, const int64_t* center, const int64_t* neighbor, int64_t* first,
                       int64_t* first_incoming, int64_t* incoming) {
    memset(first, 0, size_t(n_atoms + 1) * sizeof(int64_t));
    memset(first_incoming, 0, size_t(n_atoms + 1) * sizeof(int64_t));
    for (int64_t e = 0; e < n_edges; ++e) {
        ++first[center[e] + 1];
        ++first_incoming[neighbor[e] + 1];
    }
    int64_t most = 0;
    for (int64_t a = 0; a < n_atoms; ++a) {
        if (first[a + 1] > most) most = first[a + 1];
        first[a + 1] += first[a];
        first_incoming[a + 1] += first_incoming[a];
    }
    for (int64_t e = 0; e < n_edges; ++e) incoming[first_incoming[neighbor[e]]++] = e;
    for (int64_t a = n_atoms; a > 0; --a) first_incoming[a] = first_incoming[a - 1];
    first_incoming[0] = 0;
    return most;
}

// Floats of memory that a call needs; ``most`` is what kg_gnnff_edges returned.
int64_t kg_gnnff_floats(const Network* net, int64_t n_atoms, int64_t n_edges, int64_t most) {
    const int64_t F = net->width, G = net->edge_width;
    return n_atoms * (2 * F + larger_of(2 * F, 6 * G)) + 2 * n_edges * G + tile_floats(*net, most);
}

// Forces (n_atoms, 3) from the first states of the atoms (n_atoms, F).
void kg_gnnff_direct(const Network* net, const Graph* graph, int64_t most, const float* first_nodes, float* memory,
                     float* forces) {
    const int64_t F = net->width, G = net->edge_width, n_atoms = graph->n_atoms, n_edges = graph->n_edges;
    float* nodes[2] = {memory, memory + n_atoms * F};
    float* of_nodes = memory + 2 * n_atoms * F;
    float* edges = of_nodes + n_atoms * larger_of(2 * F, 6 * G);
    float* other_edges = edges + n_edges * G;
    float* tiles = other_edges + n_edges * G;
    const int64_t rows = tile_rows(most);
    const Tile tile(tiles, rows, F, G);
    gaussians(*net, n_edges, graph->distances, edges);
    const float* now = first_nodes;
    for (int64_t l = 0; l < net->n_layers; ++l) {
        const Layer& layer = net->layers[l];
        float* next = nodes[l % 2];
        update_nodes(*net, layer, *graph, edges, now, next, of_nodes, tiles);
        update_edges(*net, layer, *graph, net->updated_nodes ? next : now, edges, other_edges, of_nodes, tile, rows,
                     false);
        float* swap = edges;
        edges = other_edges;
        other_edges = swap;
        now = next;
    }
    edge_forces(*net, *graph, edges, forces, tiles, largest_head(*net));
}

// Floats of memory that the two calls below need.
int64_t kg_gnnff_conservative_floats(const Network* net, int64_t n_atoms, int64_t n_edges, int64_t most) {
    return Kept(*net, n_atoms, n_edges, most, nullptr).n_floats;
}

// The last states of the atoms (n_atoms, F), sums of envelope times the last states of their edges (n_atoms, G), and
// forces (n_atoms, 3) of the direct head unless null. What ``memory`` keeps is for kg_gnnff_slopes.
void kg_gnnff_states(const Network* net, const Graph* graph, int64_t most, const float* first_nodes, float* memory,
                     float* last_nodes, float* around, float* forces) {
    const int64_t F = net->width, G = net->edge_width, n_atoms = graph->n_atoms, n_edges = graph->n_edges;
    const Kept kept(*net, n_atoms, n_edges, most, memory);
    const Tile tile(kept.tiles, tile_rows(most), F, G);
    memcpy(kept.nodes, first_nodes, size_t(n_atoms * F) * sizeof(float));
    gaussians(*net, n_edges, graph->distances, kept.edges);
    float *nodes = kept.nodes, *edges = kept.edges;
    for (int64_t l = 0; l < net->n_layers; ++l, nodes += n_atoms * F, edges += n_edges * G) {
        float* next = nodes + n_atoms * F;
        update_nodes(*net, net->layers[l], *graph, edges, nodes, next, kept.of_atoms, kept.tiles);
        update_edges(*net, net->layers[l], *graph, net->updated_nodes ? next : nodes, edges, edges + n_edges * G,
                     kept.of_atoms, tile, tile_rows(most), false);
    }
    memcpy(last_nodes, nodes, size_t(n_atoms * F) * sizeof(float));
    memset(around, 0, size_t(n_atoms * G) * sizeof(float));
    for (int64_t e = 0; e < n_edges; ++e) {
        float* to = around + graph->center[e] * G;
        for (int64_t f = 0; f < G; f += W) store(to + f, load(to + f) + graph->envelope[e] * load(edges + e * G + f));
    }
    if (forces) edge_forces(*net, *graph, edges, forces, kept.tiles, largest_head(*net));
}

// Derivatives by distances and by the envelope, each (n_edges,) and as if the other did not change, from those by what
// kg_gnnff_states gave.
void kg_gnnff_slopes(const Network* net, const Graph* graph, int64_t most, float* memory, const float* by_last_nodes,
                     const float* by_around, float* by_distances, float* by_envelope) {
    const int64_t F = net->width, G = net->edge_width, n_atoms = graph->n_atoms, n_edges = graph->n_edges;
    const int64_t rows = tile_rows(most);
    const Kept kept(*net, n_atoms, n_edges, most, memory);
    const Tile tile(kept.tiles, rows, F, G);
    const TileBack back(kept.tiles + tile_floats(*net, most), rows, F, G);
    float *by_nodes = kept.by_nodes[0], *by_edges = kept.by_edges[0];
    float *by_nodes_before = kept.by_nodes[1], *by_edges_before = kept.by_edges[1];
    const float *nodes = kept.nodes + net->n_layers * n_atoms * F, *edges = kept.edges + net->n_layers * n_edges * G;
    memcpy(by_nodes, by_last_nodes, size_t(n_atoms * F) * sizeof(float));
    for (int64_t e = 0; e < n_edges; ++e) {
        vf by_weight = vf{};
        for (int64_t f = 0; f < G; f += W) {
            const vf by = load(by_around + graph->center[e] * G + f);
            store(by_edges + e * G + f, graph->envelope[e] * by);
            by_weight += by * load(edges + e * G + f);
        }
        by_envelope[e] = sum(by_weight);
    }
    for (int64_t l = net->n_layers - 1; l >= 0; --l) {
        const Layer& layer = net->layers[l];
        const float *before = nodes - n_atoms * F, *edges_before = edges - n_edges * G;
        memset(by_nodes_before, 0, size_t(n_atoms * F) * sizeof(float));
        memset(by_edges_before, 0, size_t(n_edges * G) * sizeof(float));
        update_edges_back(*net, layer, *graph, net->updated_nodes ? nodes : before, edges_before, edges, by_edges,
                          by_edges_before, net->updated_nodes ? by_nodes : by_nodes_before, by_envelope, kept.of_atoms,
                          kept.by_of_atoms, tile, back, rows);
        update_nodes_back(*net, layer, *graph, edges_before, before, nodes, by_nodes, by_nodes_before, by_edges_before,
                          by_envelope, kept.of_atoms, kept.by_of_atoms, kept.tiles);
        nodes = before;
        edges = edges_before;
        float* swap = by_nodes;
        by_nodes = by_nodes_before;
        by_nodes_before = swap;
        swap = by_edges;
        by_edges = by_edges_before;
        by_edges_before = swap;
    }
    for (int64_t e = 0; e < n_edges; ++e) {
        vf by = vf{};
        for (int64_t g = 0; g < G; g += W) {
            const vf x = graph->distances[e] - load(net->centers + g);
            by += load(by_edges + e * G + g) * load(edges + e * G + g) * (-2.0f * load(net->sharpness + g) * x);
        }
        by_distances[e] = sum(by);
    }
}

// The three-body sum of one layer, (n_edges, G), from states of atoms (n_atoms, F) and edges (n_edges, G).
void kg_gnnff_three_body(const Network* net, const Graph* graph, int64_t most, int64_t layer, const float* nodes,
                         const float* edges, float* memory, float* sums) {
    float* tiles = memory + graph->n_atoms * 6 * net->edge_width;
    const Tile tile(tiles, tile_rows(most), net->width, net->edge_width);
    update_edges(*net, net->layers[layer], *graph, nodes, edges, sums, memory, tile, tile_rows(most), true);
}
}

// A few threads that work through one function together, with places where each waits for all.
#pragma once
#include <pthread.h>

#include <cstdint>

class Team {
  public:
    // Call work(team, number) with the numbers 0 … size() − 1, on as many threads as are asked for or can be had.
    template <typename Work>
    static void run(int64_t n_threads, const Work& work) {
        if (n_threads > MOST) n_threads = MOST;
        if (n_threads < 1) n_threads = 1;
        Team team;
        Member<Work> members[MOST];
        pthread_t threads[MOST];
        pthread_mutex_lock(&team.mutex);  // nobody begins before it is known how many there are
        while (team.n < n_threads) {
            members[team.n] = {&team, &work, team.n};
            if (pthread_create(&threads[team.n], nullptr, begin<Work>, &members[team.n])) break;
            ++team.n;
        }
        pthread_mutex_unlock(&team.mutex);
        work(team, 0);
        for (int64_t k = 1; k < team.n; ++k) pthread_join(threads[k], nullptr);
    }

    int64_t size() const { return n; }

    // Wait until all have come here.
    void wait() {
        if (n == 1) return;
        pthread_mutex_lock(&mutex);
        const int64_t now = turn;
        if (++waiting == n) {
            waiting = 0;
            ++turn;
            pthread_cond_broadcast(&all_here);
        } else {
            while (turn == now) pthread_cond_wait(&all_here, &mutex);
        }
        pthread_mutex_unlock(&mutex);
    }

  private:
    static constexpr int64_t MOST = 256;
    template <typename Work>
    struct Member {
        Team* team;
        const Work* work;
        int64_t number;
    };

    template <typename Work>
    static void* begin(void* memory) {
        const Member<Work> member = *(Member<Work>*)memory;
        pthread_mutex_lock(&member.team->mutex);
        pthread_mutex_unlock(&member.team->mutex);
        (*member.work)(*member.team, member.number);
        return nullptr;
    }

    Team() {
        pthread_mutex_init(&mutex, nullptr);
        pthread_cond_init(&all_here, nullptr);
    }
    ~Team() {
        pthread_cond_destroy(&all_here);
        pthread_mutex_destroy(&mutex);
    }

    pthread_mutex_t mutex;
    pthread_cond_t all_here;
    int64_t n = 1, waiting = 0, turn = 0;
};

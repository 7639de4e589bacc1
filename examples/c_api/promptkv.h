/* SPDX-License-Identifier: MIT */
/* promptkv for C, and for all that calls C: Rust, Go, Swift, Python.
 *
 * The state of a key is a list of blocks, of `block_tokens` tokens each; the last one may be partly filled.
 * A block is a pointer of the caller's. The cache never looks into a block: it shares blocks between
 * entries, counts their bytes, and calls `destroy` when the last holder is gone. The cache is an
 * LRUPromptCache with a lock.
 *
 * A request:  promptkv_lease_nearest, copy its blocks to the engine, promptkv_end
 *             prefill what is not reused, generate
 *             promptkv_reserve, copy the new blocks out of the engine, promptkv_commit
 *
 * Build:      c++ -std=c++20 -O2 -shared -fPIC -Iinclude examples/c_api/promptkv_c.cpp -o libpromptkv_c.so
 *
 * Thread safety: all functions but promptkv_free. A lease and a room may outlive the cache.
 * Strings are UTF-8 and end with 0. Tokens and models are copied where they are kept.
 */
#ifndef PROMPTKV_H
#define PROMPTKV_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define PROMPTKV_API __declspec(dllexport)
#else
#define PROMPTKV_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct promptkv_cache promptkv_cache; /* promptkv_free it */
typedef struct promptkv_lease promptkv_lease; /* promptkv_end it */
typedef struct promptkv_room promptkv_room;   /* promptkv_commit or promptkv_cancel it */

enum promptkv_tier { PROMPTKV_ASSISTANT, PROMPTKV_USER, PROMPTKV_SYSTEM };
enum promptkv_match { PROMPTKV_NONE, PROMPTKV_EXACT, PROMPTKV_SHORTER, PROMPTKV_LONGER };
enum promptkv_outcome {
    PROMPTKV_STORED,
    PROMPTKV_REPLACED,
    PROMPTKV_PRESENT,
    PROMPTKV_DECLINED,
    PROMPTKV_CANCELLED,
    PROMPTKV_TOO_LARGE,
    PROMPTKV_NO_ROOM,
    PROMPTKV_FAILED = -1 /* out of memory, or an argument that makes no sense */
};

typedef struct promptkv_options {
    size_t max_bytes;   /* a hard budget */
    size_t max_entries; /* 0: unlimited */
    size_t block_tokens;
    void (*destroy)(void* context, void* block); /* on any thread; must not call the cache */
    void* context;
} promptkv_options;

typedef struct promptkv_key {
    const char* model; /* name, adapter, tenant: whatever must never share state goes into it */
    const int32_t* tokens;
    size_t n_tokens;
} promptkv_key;

typedef struct promptkv_block {
    void* block;
    size_t nbytes;
} promptkv_block;

typedef struct promptkv_lookup {
    size_t reused;    /* leading tokens of the prompt whose state the cache has */
    size_t matched;   /* leading tokens that a stored key shares, usable or not */
    uint64_t request; /* for promptkv_insert_options */
    int match;        /* enum promptkv_match; PROMPTKV_NONE: a miss */
} promptkv_lookup;

typedef struct promptkv_insert_options {
    int tier;         /* enum promptkv_tier */
    int side_request; /* not 0: a title, a recap */
    uint64_t session; /* the conversation, within the model; 0: none */
    uint64_t request; /* of the lookup that the state comes from; 0: none */
} promptkv_insert_options;

typedef struct promptkv_reserved {
    int outcome; /* enum promptkv_outcome: PROMPTKV_STORED or PROMPTKV_REPLACED where room is held */
    size_t tokens;        /* there is room for so many tokens of the key */
    size_t prefix_tokens; /* of these the cache has so many already, in whole blocks */
} promptkv_reserved;

/* NULL: it failed. */
PROMPTKV_API promptkv_cache* promptkv_make(const promptkv_options* options);
PROMPTKV_API void promptkv_free(promptkv_cache* cache);

/* The longest state that the prompt can use, to read where it lies; NULL: a miss. End the lease after the
 * copy: until then its entry is not evicted. */
PROMPTKV_API promptkv_lease*
promptkv_lease_nearest(promptkv_cache* cache, const promptkv_key* prompt, promptkv_lookup* lookup);
/* Writes the first `capacity` blocks, and returns how many hold the reused tokens. They live as long as
 * the lease. The last block may hold more than the reused tokens. */
PROMPTKV_API size_t promptkv_lease_blocks(const promptkv_lease* lease, void** blocks,
                                          size_t capacity);
PROMPTKV_API void promptkv_end(promptkv_lease* lease);

/* What promptkv_lease_nearest would say. Changes and counts nothing. */
PROMPTKV_API promptkv_lookup promptkv_probe(const promptkv_cache* cache,
                                            const promptkv_key* prompt);
/* Writes why the prompt hits or misses, at most `capacity` bytes with the 0 at the end; returns the length
 * of the whole text. */
PROMPTKV_API size_t promptkv_explain(const promptkv_cache* cache, const promptkv_key* prompt,
                                     char* text, size_t capacity);

/* Holds room for the state of a key. `nbytes`: of the whole key, what is stored of it already included; an
 * estimate is allowed. NULL: see the outcome. */
PROMPTKV_API promptkv_room* promptkv_reserve(promptkv_cache* cache, const promptkv_key* key,
                                             size_t nbytes, const promptkv_insert_options* options,
                                             promptkv_reserved* reserved);
/* Stores the state of the first `n_tokens` tokens of the key: what the cache has already, and these
 * blocks, from `prefix_tokens` on. Uses up the room, and takes the blocks: where they are not stored they
 * are destroyed. Returns an outcome. */
PROMPTKV_API int promptkv_commit(promptkv_room* room, const promptkv_block* blocks, size_t n_blocks,
                                 size_t n_tokens);
PROMPTKV_API void promptkv_cancel(promptkv_room* room);

/* Erases the key and all that continue it; returns how many entries. Without tokens: the model. */
PROMPTKV_API size_t promptkv_erase(promptkv_cache* cache, const promptkv_key* key);
/* Calls `f` with each counter, `size`, and `nbytes`. */
PROMPTKV_API void promptkv_stats(const promptkv_cache* cache, void* context,
                                 void (*f)(void* context, const char* name, uint64_t value));

#ifdef __cplusplus
}
#endif

#endif

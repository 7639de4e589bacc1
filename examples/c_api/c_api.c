/* SPDX-License-Identifier: MIT */
/* A C program with the cache: two chats share a system prompt. Checks what it does as it goes. */
#include "promptkv.h"

#include <stdio.h>
#include <stdlib.h>

enum { block_tokens = 16, max_tokens = 256, block_bytes = block_tokens * sizeof(int32_t) };

static int n_blocks_alive = 0;

static void destroy_block(void* context, void* block) {
    (void)context;
    --n_blocks_alive;
    free(block);
}

static void check(int holds, const char* what) {
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        exit(1);
    }
}

/* The state of a token is the token itself, so that a wrong state shows. */
static promptkv_block copy_out(const int32_t* tokens, size_t n) {
    int32_t* block = calloc(block_tokens, sizeof(int32_t));
    for (size_t i = 0; block != NULL && i < n; ++i)
        block[i] = tokens[i];
    ++n_blocks_alive;
    return (promptkv_block){block, block_bytes};
}

/* Serves a prompt and stores its state. Returns how many tokens were reused. */
static size_t serve(promptkv_cache* cache, const promptkv_key* prompt) {
    promptkv_lookup lookup;
    promptkv_lease* lease = promptkv_lease_nearest(cache, prompt, &lookup);
    check(promptkv_probe(cache, prompt).reused == lookup.reused, "a probe says what a lease says");
    if (lease != NULL) {
        void* blocks[max_tokens / block_tokens];
        promptkv_lease_blocks(lease, blocks, max_tokens / block_tokens);
        for (size_t i = 0; i < lookup.reused; ++i)
            check(((int32_t*)blocks[i / block_tokens])[i % block_tokens] == prompt->tokens[i],
                  "the state is of these tokens");
        promptkv_end(lease);
    }

    promptkv_reserved reserved;
    const promptkv_insert_options options = {.tier = PROMPTKV_USER, .request = lookup.request};
    const size_t nbytes = (prompt->n_tokens + block_tokens - 1) / block_tokens * block_bytes;
    promptkv_room* room = promptkv_reserve(cache, prompt, nbytes, &options, &reserved);
    check(room != NULL && reserved.tokens == prompt->n_tokens, "there is room");
    promptkv_block blocks[max_tokens / block_tokens];
    size_t n_blocks = 0;
    for (size_t at = reserved.prefix_tokens; at < reserved.tokens; at += block_tokens) {
        const size_t left = reserved.tokens - at;
        blocks[n_blocks++] =
            copy_out(prompt->tokens + at, left < block_tokens ? left : block_tokens);
    }
    check(promptkv_commit(room, blocks, n_blocks, reserved.tokens) == PROMPTKV_STORED,
          "it is stored");
    return lookup.reused;
}

static void print_counter(void* context, const char* name, uint64_t value) {
    (void)context;
    if (value > 0)
        printf(" %s=%llu", name, (unsigned long long)value);
}

int main(void) {
    const promptkv_options options = {
        .max_bytes = 1 << 20, .block_tokens = block_tokens, .destroy = destroy_block};
    promptkv_cache* cache = promptkv_make(&options);
    check(cache != NULL, "there is memory");
    int32_t tokens[max_tokens] = {0}; /* 100 tokens of system prompt, then the question */
    const promptkv_key prompt = {"my-model", tokens, 150};
    for (int i = 0; i < 150; ++i)
        tokens[i] = i;
    printf("first chat: %zu tokens reused\n", serve(cache, &prompt));
    for (int i = 100; i < 150; ++i)
        tokens[i] = 1000 + i;
    const size_t reused = serve(cache, &prompt);
    printf("second chat: %zu tokens reused\n", reused);
    check(reused == 100, "the system prompt is shared");

    tokens[50] = -1;
    char why[200];
    promptkv_explain(cache, &prompt, why, sizeof why);
    printf("another prompt: %s\ncounters:", why);
    promptkv_stats(cache, NULL, print_counter);

    promptkv_reserved reserved;
    const promptkv_insert_options user = {.tier = PROMPTKV_USER};
    promptkv_cancel(promptkv_reserve(cache, &prompt, block_bytes, &user, &reserved));
    promptkv_room* room = promptkv_reserve(cache, &prompt, 2 * block_bytes, &user, &reserved);
    const promptkv_block block = copy_out(tokens, block_tokens);
    check(promptkv_commit(room, &block, 1, 1000) == PROMPTKV_FAILED, "more tokens than blocks");
    const promptkv_key model = {"my-model", NULL, 0};
    check(promptkv_erase(cache, &model) == 2, "both chats are erased");
    check(n_blocks_alive == 0, "each block is destroyed once");
    promptkv_free(cache);
    printf("\nall blocks are destroyed\n");
    return 0;
}

# SPDX-License-Identifier: MIT
"""The cache from Python, by ctypes alone:  python3 c_api.py PATH_OF_THE_LIBRARY"""

import ctypes as c
import sys

BLOCK_TOKENS = 16
Destroy = c.CFUNCTYPE(None, c.c_void_p, c.c_void_p)


def structure(name, **fields):
    return type(name, (c.Structure,), {"_fields_": list(fields.items())})


Options = structure(
    "Options", max_bytes=c.c_size_t, max_entries=c.c_size_t, block_tokens=c.c_size_t, destroy=Destroy,
    context=c.c_void_p,
)  # fmt: skip
Key = structure("Key", model=c.c_char_p, tokens=c.POINTER(c.c_int32), n_tokens=c.c_size_t)
Block = structure("Block", block=c.c_void_p, nbytes=c.c_size_t)
Lookup = structure("Lookup", reused=c.c_size_t, matched=c.c_size_t, request=c.c_uint64, match=c.c_int)
InsertOptions = structure(
    "InsertOptions", tier=c.c_int, side_request=c.c_int, session=c.c_uint64, request=c.c_uint64
)
Reserved = structure("Reserved", outcome=c.c_int, tokens=c.c_size_t, prefix_tokens=c.c_size_t)


class Cache:
    """State is a list of Python objects, one for each block: the table keeps them while the cache does."""

    def __init__(self, path, max_bytes):
        self.lib = c.CDLL(path)
        for name in ("make", "lease_nearest", "reserve"):
            self.function(name).restype = c.c_void_p
        for name in ("explain", "erase", "lease_blocks"):
            self.function(name).restype = c.c_size_t
        self.function("probe").restype = Lookup
        self.blocks = {}
        self.next_block = 1
        self.destroy = Destroy(lambda _, block: self.blocks.pop(block))  # kept, or it is collected
        options = Options(max_bytes, 0, BLOCK_TOKENS, self.destroy, None)
        self.cache = c.c_void_p(self.function("make")(c.byref(options)))

    def function(self, name):
        return getattr(self.lib, "promptkv_" + name)

    @staticmethod
    def key(model, tokens):
        return c.byref(Key(model.encode(), (c.c_int32 * len(tokens))(*tokens), len(tokens)))

    def lookup(self, model, prompt):
        """The number of reused tokens, and their state."""
        lookup, state = Lookup(), []
        lease = self.function("lease_nearest")(self.cache, self.key(model, prompt), c.byref(lookup))
        if lease:
            found = (c.c_void_p * (len(prompt) // BLOCK_TOKENS + 1))()
            n = self.function("lease_blocks")(c.c_void_p(lease), found, c.c_size_t(len(found)))
            state = [self.blocks[block] for block in found[:n]]
            self.function("end")(c.c_void_p(lease))
        return lookup.reused, state

    def store(self, model, tokens, nbytes, make_block, tier=0, session=0):
        """Calls make_block(from, to) for each block that the cache does not have."""
        reserved, options = Reserved(), InsertOptions(tier=tier, session=session)
        size = c.c_size_t(nbytes * -(-len(tokens) // BLOCK_TOKENS))
        key = self.key(model, tokens)
        room = self.function("reserve")(self.cache, key, size, c.byref(options), c.byref(reserved))
        if not room:
            return reserved.outcome
        new = []
        for start in range(reserved.prefix_tokens, reserved.tokens, BLOCK_TOKENS):
            block, self.next_block = self.next_block, self.next_block + 1
            self.blocks[block] = make_block(start, min(start + BLOCK_TOKENS, reserved.tokens))
            new.append(Block(block, nbytes))
        blocks, count = (Block * len(new))(*new), c.c_size_t(len(new))
        return self.function("commit")(c.c_void_p(room), blocks, count, c.c_size_t(reserved.tokens))

    def explain(self, model, prompt):
        text = c.create_string_buffer(200)
        self.function("explain")(self.cache, self.key(model, prompt), text, c.c_size_t(len(text)))
        return text.value.decode()

    def close(self):
        self.function("free")(self.cache)


def main():
    cache = Cache(sys.argv[1], 1 << 20)
    system, made = list(range(100)), []

    def make_block(start, end):
        made.append((start, end))
        return tokens[start:end]

    for chat in (1, 2):
        tokens = system + [chat * 1000 + i for i in range(50)]
        reused, state = cache.lookup("model", tokens)
        assert sum(state, [])[:reused] == tokens[:reused]
        assert cache.store("model", tokens, 64, make_block, session=chat) == 0
        print(f"chat {chat}: {reused} tokens reused, {len(made)} blocks made")
    assert reused == 100 and len(made) == 10 + 4, made
    print(cache.explain("model", [7]))
    assert cache.function("erase")(cache.cache, cache.key("model", system[:50])) == 2
    cache.close()
    assert not cache.blocks
    print("all blocks are destroyed")


main()

# SPDX-License-Identifier: MIT
"""Shows a cache, a trie, and the answers of a cache in gdb:

    (gdb) source .cmake/debugger/promptkv_gdb.py
    (gdb) print cache
    $1 = prompt cache: 2 entries, never more than 896 bytes = {["model": 150 tokens, 0 1 2 ...] = user, ...}

It reads members and calls no function, so it works on a core dump too. A set print elements limits the
entries and the tokens that are shown.
"""

import itertools
import re

import gdb
import gdb.printing


def limit():
    return gdb.parameter("print elements") or 200


def key_of(node):
    """The tokens from the root to a node, as text."""
    token = node.type.strip_typedefs().template_argument(1)
    tokens = []
    while int(node["parent"]) != 0:
        first = (node["run"] + 1).cast(token.pointer()) + node["offset"]
        tokens = [int(first[i]) for i in range(min(int(node["edge_length"]), limit()))] + tokens
        node = node["parent"].dereference()
    shown = tokens[:8]
    return " ".join(map(str, shown)) + (" ..." if len(tokens) > len(shown) else "")


def nodes_below(root):
    """All nodes of a tree, in preorder. Nothing recurses: trees may be deep."""
    waiting = [root] if int(root) != 0 else []
    while waiting:
        node = waiting.pop()
        yield node.dereference()
        children = node["children"]
        slots = pointer_of(children["slots_"])
        waiting += [slots[i]["child"] for i in reversed(range(int(children["size_"])))]


def pointer_of(smart):
    """What a std::unique_ptr or std::shared_ptr points to: the pointer comes first in both, in every library."""
    target = smart.type.strip_typedefs().template_argument(0)
    if target.code == gdb.TYPE_CODE_ARRAY:
        target = target.target()
    return smart.address.cast(target.pointer().pointer()).dereference()


class CachePrinter:
    def __init__(self, value):
        pointer = pointer_of(value["cache_"])
        self.parts = pointer["parts_"] if int(pointer) != 0 else None

    def to_string(self):
        if self.parts is None:
            return "prompt cache, moved from"
        entries, peak = int(self.parts["ledger"]["size_"]), int(self.parts["ledger"]["peak_"])
        return f"prompt cache: {entries} entries, never more than {peak} bytes"

    def children(self):
        if self.parts is None:
            return
        homes = gdb.default_visualizer(self.parts["index"]["homes_"]["homes_"])
        shown = 0
        for _, home in homes.children():
            for node in nodes_below(home["tree"]["root_"]):
                record = node["value"]
                if int(record) == 0 or not record["is_entry"]:
                    continue
                if shown == limit():
                    return
                shown += 1
                name = f"[{home['model']}: {int(node['depth'])} tokens, {key_of(node)}]"
                yield name, str(record["tier"]).rpartition("::")[2]


class TriePrinter:
    def __init__(self, value):
        self.tree = value["tree_"]

    def to_string(self):
        return f"prompt trie: {int(self.tree['size_'])} values in {int(self.tree['node_count_'])} nodes"

    def children(self):
        with_value = (n for n in nodes_below(self.tree["root_"]) if self.has_value(n))
        for node in itertools.islice(with_value, limit()):
            yield f"[{key_of(node)}]", next(c for _, c in gdb.default_visualizer(node["value"]).children())

    @staticmethod
    def has_value(node):
        return any(True for _ in gdb.default_visualizer(node["value"]).children())


class LookupPrinter:
    """A Lookup, a Fetched, a Lease."""

    def __init__(self, value):
        self.value = value

    def to_string(self):
        def name(field):
            return str(self.value[field]).rpartition("::")[2]

        if name("match_") == "none":
            return f"miss ({name('miss_')}), {int(self.value['matched_'])} tokens match"
        return f"hit ({name('match_')}), {int(self.value['reused_'])} tokens reused"


class Lookup:
    """Finds the printer of a type: namespaces have a version in their name."""

    name = "promptkv"
    enabled = True
    subprinters = None
    printers = (
        (re.compile(r"^promptkv::(v\w+::)?BasicPromptCache<.*>$"), CachePrinter),
        (re.compile(r"^promptkv::(v\w+::)?PromptTrie<.*>$"), TriePrinter),
        (re.compile(r"^promptkv::(v\w+::)?(Lookup|Fetched|Lease)<.*>$"), LookupPrinter),
    )

    def __call__(self, value):
        type_name = value.type.strip_typedefs().unqualified().name or ""
        if re.search(r">::\w+$", type_name) or "detail::" in type_name.partition("<")[0]:
            return None
        return next((make(value) for pattern, make in self.printers if pattern.match(type_name)), None)


gdb.printing.register_pretty_printer(None, Lookup(), replace=True)

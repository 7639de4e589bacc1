-- SPDX-License-Identifier: MIT
-- xmake and xrepo: `xrepo add-repo promptkv <folder xrepo>`, then `xrepo install promptkv`.
package("promptkv")
    set_kind("library", {headeronly = true})
    set_homepage("https://github.com/promptkv/promptkv")
    set_description("Prompt KV cache for C++ inference engines")
    set_license("MIT")

    add_urls("https://github.com/promptkv/promptkv/releases/download/v$(version)/promptkv-$(version).tar.gz")
    add_versions("@VERSION@", "@SHA256@")

    on_install(function (package)
        os.cp("include/promptkv", package:installdir("include"))
    end)

    on_test(function (package)
        assert(package:check_cxxsnippets({test = [[
            #include <promptkv/promptkv.hpp>
            struct KV {
                std::size_t nbytes() const { return 1; }
            };
            void test() {
                promptkv::LRUPromptCache<KV> cache({.max_bytes = 1});
            }
        ]]}, {configs = {languages = "c++20"}}))
    end)
package_end()

# SPDX-License-Identifier: MIT
# Makes the target promptkv_llama where llama.cpp is found: installed (CMake package, pkg-config),
# or in PROMPTKV_LLAMA_DIR, which fetch_llama.sh fills. Downloads nothing.
include_guard(GLOBAL)

set(PROMPTKV_LLAMA_DIR
    "${CMAKE_BINARY_DIR}/llama.cpp"
    CACHE PATH "Folder that examples/llama_chat/fetch_llama.sh filled"
)

# Sets <result> to whether <libraries> are a llama.cpp whose API is recent enough.
function(promptkv_llama_works result libraries)
    include(CheckCXXSourceCompiles)
    set(CMAKE_REQUIRED_LIBRARIES ${libraries})
    set(CMAKE_REQUIRED_QUIET ON)
    check_cxx_source_compiles(
        "#include <llama-cpp.h>
        #include <gguf.h>
        int main() {
            llama_context_params params = llama_context_default_params();
            params.kv_unified = true;
            params.swa_full = true;
            params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_AUTO;
            llama_memory_seq_cp(nullptr, 0, 1, 0, 1);
            gguf_free(gguf_init_empty());
            ggml_backend_load_all();
            return llama_model_is_hybrid(nullptr) ||
                   llama_state_seq_get_size_ext(nullptr, 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) == 0;
        }"
        ${result}
    )
    set(${result} ${${result}} PARENT_SCOPE)
endfunction()

set(libraries "")
set(definitions "")
find_package(llama CONFIG QUIET GLOBAL)
find_package(PkgConfig QUIET)
if(llama_FOUND)
    promptkv_llama_works(PROMPTKV_LLAMA_PACKAGE_WORKS llama)
    if(PROMPTKV_LLAMA_PACKAGE_WORKS)
        set(libraries llama)
        set(origin "${llama_DIR}")
    endif()
endif()
if(NOT libraries AND PKG_CONFIG_FOUND)
    pkg_check_modules(promptkv_pc_llama QUIET IMPORTED_TARGET GLOBAL llama)
    if(promptkv_pc_llama_FOUND)
        promptkv_llama_works(PROMPTKV_LLAMA_PKG_CONFIG_WORKS PkgConfig::promptkv_pc_llama)
        if(PROMPTKV_LLAMA_PKG_CONFIG_WORKS)
            set(libraries PkgConfig::promptkv_pc_llama)
            set(origin "pkg-config, ${promptkv_pc_llama_PREFIX}")
        endif()
    endif()
endif()
if(NOT libraries AND EXISTS "${PROMPTKV_LLAMA_DIR}/version")
    foreach(name IN ITEMS llama ggml ggml-base)
        add_library(promptkv_fetched_${name} SHARED IMPORTED GLOBAL)
        set_target_properties(
            promptkv_fetched_${name}
            PROPERTIES
                IMPORTED_LOCATION "${PROMPTKV_LLAMA_DIR}/lib/lib${name}.so"
                INTERFACE_INCLUDE_DIRECTORIES "${PROMPTKV_LLAMA_DIR}/include"
        )
        list(APPEND libraries promptkv_fetched_${name})
    endforeach()
    # Backends are looked for beside the executable unless told otherwise.
    set(definitions PROMPTKV_LLAMA_BACKENDS="${PROMPTKV_LLAMA_DIR}/lib")
    set(origin "${PROMPTKV_LLAMA_DIR}")
endif()

if(libraries)
    message(STATUS "llama.cpp: ${origin}")
    add_library(promptkv_llama INTERFACE)
    target_link_libraries(promptkv_llama INTERFACE ${libraries})
    target_include_directories(promptkv_llama INTERFACE "${CMAKE_CURRENT_LIST_DIR}")
    target_compile_definitions(promptkv_llama INTERFACE ${definitions})
    if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
        # An rpath that libggml's own dependencies are found by too: a prefix of one's own has none.
        target_link_options(promptkv_llama INTERFACE LINKER:--disable-new-dtags)
    endif()
else()
    message(
        STATUS
        "llama.cpp: not found, so examples/llama_chat and tests/engine are left out. Install it, "
        "or run examples/llama_chat/fetch_llama.sh ${PROMPTKV_LLAMA_DIR} and configure again."
    )
endif()

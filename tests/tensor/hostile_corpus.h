/// Safetensors files as an attacker, a broken download or a careless writer makes them, byte by byte. The names and
/// verdicts are those of tests/hostile/expected.tsv; `reason` is part of the message of the refusal.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thaw::test {

struct HostileCase {
  std::string name;
  std::string bytes;
  bool accept = false;
  std::string reason;
};

/// The eight bytes that a file starts with.
inline std::string little_endian(std::uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

inline std::string safetensors_bytes(std::string_view header, std::string_view data = {}) {
  return little_endian(header.size()) + std::string(header) + std::string(data);
}

/// {"a": a float32 tensor of 2 x 2}, with the parts that a case changes.
struct HeaderParts {
  std::string name = "\"a\"";
  std::string dtype = "\"F32\"";
  std::string shape = "[2,2]";
  std::string offsets = "[0,16]";
  [[nodiscard]] std::string member() const {
    return fmt::format("{}:{{\"dtype\":{},\"shape\":{},\"data_offsets\":{}}}", name, dtype, shape, offsets);
  }
  [[nodiscard]] std::string header() const { return fmt::format("{{{}}}", member()); }
};

inline std::string times(std::size_t count, std::string_view text) {
  std::string all;
  all.reserve(count * text.size());
  for (std::size_t i = 0; i < count; ++i) all += text;
  return all;
}

// Offsets so far beyond 2^64 that, added to the position of the data, they wrap around to the start of the file.
inline std::string header_whose_offsets_wrap() {
  for (std::uint64_t length = 60; length < 140; ++length) {
    const std::uint64_t begin = 0 - (8 + length);
    std::string header = HeaderParts{.offsets = fmt::format("[{},{}]", begin, begin + 16)}.header();
    if (header.size() > length) continue;
    header.resize(length, ' ');
    return header;
  }
  return {};
}

/// Faults of the file around the header: its length, its encoding, its being another kind of file.
inline std::vector<HostileCase> envelope_cases() {
  const std::string data(16, '\0');
  const std::string valid = HeaderParts{}.header();
  const auto with_length = [&](std::uint64_t length) { return little_endian(length) + valid + data; };
  const std::string padding(60, '\0');
  std::string big_endian = little_endian(54);
  std::reverse(big_endian.begin(), big_endian.end());
  return {
      {"00_valid", safetensors_bytes(valid, data), true, ""},
      {"01_empty_file", "", false, "only 0 bytes"},
      {"02_seven_bytes", std::string(7, '\0'), false, "only 7 bytes"},
      {"03_len0", little_endian(0), false, "does not start with '{'"},
      {"04_len_u64max", with_length(~std::uint64_t{0}), false, "header too large"},
      {"05_len_2^63", with_length(std::uint64_t{1} << 63), false, "header too large"},
      {"06_len_gt_file", with_length(1000), false, "past the end of the file"},
      {"07_len_eq_cap+1", with_length(100'000'001), false, "header too large"},
      {"08_len_short_cuts_json", with_length(20), false, "expected a header of JSON"},
      {"09_len_swallows_data", with_length(valid.size() + 16), false, "a zero byte"},
      {"10_bigendian_len", big_endian + valid + data, false, "header too large"},
      {"11_not_utf8", safetensors_bytes(HeaderParts{.name = "\"\xff\""}.header(), data), false, "a header of JSON"},
      {"12_bom", safetensors_bytes("\xef\xbb\xbf" + valid, data), false, "does not start with '{'"},
      {"13_top_array", safetensors_bytes("[]"), false, "does not start with '{'"},
      {"14_top_null", safetensors_bytes("null"), false, "does not start with '{'"},
      {"15_top_string", safetensors_bytes("\"{}\""), false, "does not start with '{'"},
      {"16_two_docs", safetensors_bytes("{}{}"), false, "'{}{' at byte 3"},
      {"17_trailing_comma", safetensors_bytes(fmt::format("{{{},}}", HeaderParts{}.member()), data), false,
       "a header of JSON"},
      {"18_comment", safetensors_bytes("{/*x*/" + valid.substr(1), data), false, "a header of JSON"},
      {"19_nul_pad", safetensors_bytes(valid + std::string(3, '\0'), data), false, "found a zero byte at 57"},
      {"20_space_pad_ok", safetensors_bytes(valid + "   ", data), true, ""},
      {"57_trailing_bytes", safetensors_bytes(valid, data + "PK\x03\x04polyglot"), false, "appended"},
      {"69_nest_1M", safetensors_bytes("{\"a\":" + times(1'000'000, "[") + times(1'000'000, "]") + "}"), false,
       "expected an object, found a list"},
      {"70_leading_ws", safetensors_bytes("  " + valid, data), false, "does not start with '{'"},
      {"74_pickle_renamed", std::string("\x80\x02}q\0.", 6) + padding.substr(0, 40), false, "a Python pickle"},
      {"75_zip_pt_renamed", "PK\x03\x04" + padding, false, "a zip archive"},
      {"76_html_error_page", "<!DOCTYPE html><html><body>404</body></html>", false, "an HTML page"},
      {"77_lfs_pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", false,
       "a Git LFS pointer"},
      {"78_nul_then_garbage", safetensors_bytes(valid + std::string("\0GARBAGE{\"hidden\":1}", 20), data), false,
       "found a zero byte at 57"},
  };
}

/// Faults of the JSON: names, fields and types of values.
inline std::vector<HostileCase> header_cases() {
  const std::string data(16, '\0');
  const auto with = [&](const HeaderParts& parts) { return safetensors_bytes(parts.header(), data); };
  const auto raw = [&](const std::string& header) { return safetensors_bytes(header, data); };
  const std::string member = HeaderParts{}.member();
  const std::string unsigned_only = "expected unsigned whole numbers";
  return {
      {"21_dup_tensor", raw("{" + member + R"(,"a":{"dtype":"U8","shape":[16],"data_offsets":[0,16]}})"), false,
       "'a' twice"},
      {"22_dup_field", raw(R"({"a":{"dtype":"F32","shape":[4,4],"shape":[2,2],"data_offsets":[0,16]}})"), false,
       "'shape' twice"},
      {"23_dup_escaped_name", raw("{" + member + R"(,"\u0061":{"dtype":"F32","shape":[0],"data_offsets":[16,16]}})"),
       false, "'a' twice"},
      {"24_dup_metadata", raw(R"({"__metadata__":{},"__metadata__":{"x":"y"},)" + member + "}"), false,
       "'__metadata__' twice"},
      {"25_metadata_nonstring", raw(R"({"__metadata__":{"x":1},)" + member + "}"), false,
       "expected strings in __metadata__, found 1"},
      {"26_metadata_nested", raw(R"({"__metadata__":{"x":{"y":"z"}},)" + member + "}"), false,
       "expected strings in __metadata__, found an object"},
      {"27_metadata_null", raw(R"({"__metadata__":null,)" + member + "}"), false, "expected an object, found null"},
      {"28_dtype_unknown", with({.dtype = "\"F31\""}), false, "found 'F31'"},
      {"29_dtype_lower", with({.dtype = "\"f32\""}), false, "found 'f32'"},
      {"30_dtype_int", with({.dtype = "1"}), false, "expected dtype a string"},
      {"31_missing_dtype", raw(R"({"a":{"shape":[2,2],"data_offsets":[0,16]}})"), false, "found not all"},
      {"32_shape_missing", raw(R"({"a":{"dtype":"F32","data_offsets":[0,16]}})"), false, "found not all"},
      {"33_shape_string", with({.shape = "\"2,2\""}), false, "found the string '2,2'"},
      {"34_shape_nested", with({.shape = "[[2,2]]"}), false,
       unsigned_only + " in shape and data_offsets, found a list"},
      {"35_shape_neg_pair", with({.shape = "[-2,-2]"}), false, unsigned_only},
      {"36_shape_neg", with({.shape = "[-4]"}), false, "found -4"},
      {"37_shape_float", with({.shape = "[2.9,2.2]"}), false, "found 2.9"},
      {"38_shape_bool", with({.shape = "[true,4]"}), false, "found true"},
      {"39_shape_exp", with({.shape = "[4e0]"}), false, "found 4e0"},
      {"43_shape_bigint", with({.shape = "[18446744073709551616]"}), false, "found 18446744073709551616"},
      {"44_rank_100k",
       safetensors_bytes(
           HeaderParts{.dtype = "\"U8\"", .shape = "[1" + times(99'999, ",1") + "]", .offsets = "[0,1]"}.header(),
           std::string(1, '\0')),
       false, "at most 8 dimensions"},
      {"48_offs_negative", with({.offsets = "[-16,0]"}), false, "found -16"},
      {"49_offs_float", with({.offsets = "[0.0,16.9]"}), false, "found 0.0"},
      {"62_f4_odd",
       safetensors_bytes(HeaderParts{.dtype = "\"F4\"", .shape = "[3]", .offsets = "[0,2]"}.header(), data.substr(14)),
       false, "found 'F4'"},
      {"63_extra_field", raw(R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16],"evil":"x"}})"), false,
       "found 'evil'"},
      {"64_name_traversal", with({.name = "\"../../etc/x\""}), true, ""},
      {"65_name_nul", with({.name = "\"a\\u0000b\""}), true, ""},
      {"66_name_1MB", with({.name = fmt::format("\"{}\"", times(1'000'000, "a"))}), false,
       "names of at most 1024 bytes"},
      {"67_name_empty", with({.name = "\"\""}), true, ""},
      {"68_lone_surrogate", with({.name = "\"\\ud800\""}), false, "a header of JSON"},
      {"71_neg_zero", with({.offsets = "[-0,16]"}), false, unsigned_only},
      {"72_leading_zero_int", with({.shape = "[02,2]"}), false, "a header of JSON"},
      {"73_nan_literal", with({.shape = "[NaN]"}), false, "a header of JSON"},
  };
}

/// Faults of the numbers: sizes and ranges of the data section.
inline std::vector<HostileCase> range_cases() {
  const std::string data(16, '\0');
  const auto with = [&](const HeaderParts& parts) { return safetensors_bytes(parts.header(), data); };
  const auto without_data = [](const HeaderParts& parts) { return safetensors_bytes(parts.header()); };
  const auto with_b = [](const std::string& offsets, std::size_t bytes) {
    return safetensors_bytes(
        fmt::format("{{{},{}}}", HeaderParts{}.member(), HeaderParts{.name = "\"b\"", .offsets = offsets}.member()),
        std::string(bytes, '\0'));
  };
  std::string same_range = "{";
  for (int i = 0; i < 100'000; ++i) {
    if (i > 0) same_range += ',';
    same_range += HeaderParts{.name = fmt::format("\"w{}\"", i)}.member();
  }
  const std::string nan("\0\0\xc0\x7f", 4);
  return {
      {"40_shape_2^32_narrow", without_data({.shape = "[4294967296]", .offsets = "[0,0]"}), false, "(size)"},
      {"41_shape_overflow_to0", without_data({.shape = "[65536,65536,65536,65536]", .offsets = "[0,0]"}), false,
       "overflow"},
      {"42_shape_u64max", with({.shape = "[18446744073709551615,2]"}), false, "dimensions below 2^63"},
      {"45_offs_one", with({.offsets = "[0]"}), false, "two data_offsets"},
      {"46_offs_three", with({.offsets = "[0,16,16]"}), false, "two data_offsets"},
      {"47_offs_reversed", with({.offsets = "[16,0]"}), false, "rising order"},
      {"50_offs_wrap", with({.offsets = "[18446744073709551400,18446744073709551416]"}), false, "a hole"},
      {"50b_offs_wrap_exact", safetensors_bytes(header_whose_offsets_wrap(), data), false, "a hole"},
      {"51_offs_past_eof", safetensors_bytes(HeaderParts{}.header(), data.substr(1)), false, "cut off"},
      {"52_size_mismatch_small", with({.shape = "[1000,1000]"}), false, "expected 4000000 bytes"},
      {"53_overlap", with_b("[8,24]", 24), false, "an overlap"},
      {"54_same_range_x100k", safetensors_bytes(same_range + "}", data), false, "an overlap"},
      {"55_hole", with_b("[32,48]", 48), false, "a hole"},
      {"56_hole_at_start", safetensors_bytes(HeaderParts{.offsets = "[8,24]"}.header(), std::string(24, '\0')), false,
       "a hole"},
      {"58_zero_size_ok", without_data({.shape = "[2,0]", .offsets = "[0,0]"}), true, ""},
      {"59_scalar_ok", safetensors_bytes(HeaderParts{.shape = "[]", .offsets = "[0,4]"}.header(), data.substr(12)),
       true, ""},
      {"60_bool_value2",
       safetensors_bytes(HeaderParts{.dtype = "\"BOOL\"", .shape = "[1]", .offsets = "[0,1]"}.header(), "\x02"), true,
       ""},
      {"61_nan_weights", safetensors_bytes(HeaderParts{}.header(), times(4, nan)), true, ""},
  };
}

inline std::vector<HostileCase> hostile_corpus() {
  std::vector<HostileCase> all = envelope_cases();
  for (auto& one : header_cases()) all.push_back(std::move(one));
  for (auto& one : range_cases()) all.push_back(std::move(one));
  return all;
}

}  // namespace thaw::test

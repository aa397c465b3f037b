#include "thaw/core/sha256.h"

#include <gmock/gmock.h>

#include "core/temporary_folder.h"
#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::sha256_test {
namespace {

// FIPS 180-4 examples.
TEST(Sha256, GivesThePublishedDigests) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesDigestAsTheWhole) {
  Sha256 digest;
  digest.update("ab").update("").update("c");
  Sha256 moved = std::move(digest);
  EXPECT_EQ(moved.hex(), sha256_hex("abc"));
}

TEST(Sha256, FileDigestsAsItsContent) {
  const test::TemporaryFolder folder;
  std::string content;
  for (int i = 0; i < 300'000; ++i) content += std::to_string(i);  // more than one block
  EXPECT_EQ(sha256_file(folder.write("a", content)), sha256_hex(content));
  EXPECT_EQ(sha256_file(folder.write("empty", "")), sha256_hex(""));
  EXPECT_THAT(test::message_of<IoError>([&] { static_cast<void>(sha256_file(folder / "none")); }),
              ::testing::HasSubstr("No such file"));
}

}  // namespace
}  // namespace thaw::sha256_test

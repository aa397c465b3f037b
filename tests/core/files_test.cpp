#include "thaw/core/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/temporary_folder.h"
#include "core/throws.h"
#include "thaw/core/error.h"

namespace thaw::files_test {
namespace {

namespace fs = std::filesystem;

using test::message_of;
using test::TemporaryFolder;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string open_refusal(const fs::path& path) {
  return message_of<IoError>([&] { const InputFile file(path); });
}

TEST(InputFile, ReadsAtOffsets) {
  const TemporaryFolder folder;
  const InputFile file(folder.write("a", "hello world"));
  EXPECT_EQ(file.size(), 11U);
  std::string text(5, '\0');
  file.read_at(6, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(text, "world");
}

TEST(InputFile, RefusesToReadBeyondTheEnd) {
  const TemporaryFolder folder;
  const InputFile file(folder.write("a", "hello"));
  std::string text(3, '\0');
  const auto read = [&](std::uint64_t offset) {
    return message_of<IoError>([&] { file.read_at(offset, std::as_writable_bytes(std::span(text))); });
  };
  EXPECT_THAT(read(3), HasSubstr("expected 3 bytes at offset 3, found a file of 5 bytes"));
  EXPECT_THAT(read(~std::uint64_t{0}), HasSubstr("a file of 5 bytes"));
}

TEST(InputFile, SaysSoWhenTheFileShrinksWhileOpen) {
  const TemporaryFolder folder;
  const auto path = folder.write("a", "hello world");
  const InputFile file(path);
  fs::resize_file(path, 4);
  std::string text(11, '\0');
  EXPECT_THAT(message_of<IoError>([&] { file.read_at(0, std::as_writable_bytes(std::span(text))); }),
              AllOf(HasSubstr("its end at 4"), HasSubstr("truncated")));
}

TEST(InputFile, TakesRegularFilesOnly) {
  const TemporaryFolder folder;
  EXPECT_THAT(open_refusal(folder.path()), HasSubstr("found a folder"));
  EXPECT_THAT(open_refusal("/dev/null"), HasSubstr("a device, pipe or socket"));
  const auto fifo = folder / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(open_refusal(fifo), HasSubstr("a device, pipe or socket"));  // and does not wait for a writer
  EXPECT_THAT(open_refusal(folder / "none"), AllOf(HasSubstr("none"), HasSubstr("No such file")));
}

TEST(InputFile, MovesWithItsDescriptor) {
  const TemporaryFolder folder;
  InputFile first(folder.write("a", "A"));
  InputFile second(folder.write("b", "BB"));
  second = std::move(first);
  std::string text(1, '\0');
  second.read_at(0, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(text, "A");
  EXPECT_EQ(second.size(), 1U);
}

TEST(ReadText, RefusesMoreThanTheLimit) {
  const TemporaryFolder folder;
  const auto path = folder.write("a", "12345");
  EXPECT_EQ(read_text(path, 5), "12345");
  EXPECT_THAT(message_of<FormatError>([&] { static_cast<void>(read_text(path, 4)); }),
              HasSubstr("expected at most 4 bytes, found 5 bytes"));
}

// ---- writing ----

TEST(AtomicFile, AppearsOnlyOnCommit) {
  const TemporaryFolder folder;
  {
    AtomicFile file(folder / "a");
    file.write("he");
    file.write("llo");
    EXPECT_FALSE(fs::exists(folder / "a"));
    file.commit();
    EXPECT_EQ(read_text(folder / "a"), "hello");
  }
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFile, LeavesTheOldContentWhenItIsNotCommitted) {
  const TemporaryFolder folder;
  const auto path = folder.write("a", "old");
  { AtomicFile(path).write("new"); }
  EXPECT_EQ(read_text(path), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFile, ReaderOfTheOldFileKeepsIt) {
  const TemporaryFolder folder;
  const auto path = folder.write("a", "old");
  const InputFile reader(path);
  write_text_atomic(path, "a longer new content");
  std::string text(3, '\0');
  reader.read_at(0, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(text, "old");
  EXPECT_EQ(read_text(path), "a longer new content");
}

TEST(AtomicFile, ReplacesALinkNotWhatItPointsTo) {
  const TemporaryFolder folder;
  const auto target = folder.write("target", "old");
  fs::create_symlink(target, folder / "link");
  write_text_atomic(folder / "link", "new");
  EXPECT_EQ(read_text(target), "old");
  EXPECT_EQ(read_text(folder / "link"), "new");
}

TEST(AtomicFile, SaysWhichFolderIsMissing) {
  const TemporaryFolder folder;
  const std::string message = message_of<IoError>([&] { write_text_atomic(folder / "none/a", "x"); });
  EXPECT_THAT(message, AllOf(HasSubstr("none/a"), HasSubstr("No such file")));
}

TEST(AtomicFile, FailsToReplaceAFolderAndLeavesNothing) {
  const TemporaryFolder folder;
  folder.write("a/inside", "x");
  EXPECT_THAT(message_of<IoError>([&] { write_text_atomic(folder / "a", "x"); }), HasSubstr("cannot rename"));
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(AtomicFile, TakesANameOfTheLongestLength) {
  const TemporaryFolder folder;
  const std::string name(255, 'n');
  write_text_atomic(folder / name, "x");
  EXPECT_EQ(read_text(folder / name), "x");
}

TEST(AtomicFile, FullDiskSaysWhatToDo) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full on this system";
  // A file that is created beside a target cannot be sent to /dev/full; a limit of the process does the same.
  const TemporaryFolder folder;
  const auto path = folder.write("a", "old");
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 10, .rlim_max = 10};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_text_atomic(path, std::string(1000, 'x'));
    } catch (const IoError&) {
      ::_exit(42);
    }
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 42);
  EXPECT_EQ(read_text(path), "old");
  EXPECT_THAT(folder.names(), ElementsAre("a"));
}

TEST(StagedDirectory, AppearsWholeOnCommit) {
  const TemporaryFolder folder;
  {
    StagedDirectory staged(folder / "step-1");
    fs::create_directory(staged.path() / "sub");
    write_text_atomic(staged.path() / "sub/a", "A");
    write_text_atomic(staged.path() / "b", "B");
    EXPECT_FALSE(fs::exists(folder / "step-1"));
    staged.commit();
  }
  EXPECT_THAT(folder.names(), ElementsAre("step-1"));
  EXPECT_EQ(read_text(folder / "step-1/sub/a"), "A");
  EXPECT_EQ(read_text(folder / "step-1/b"), "B");
}

TEST(StagedDirectory, LeavesNothingWhenItIsNotCommitted) {
  const TemporaryFolder folder;
  {
    const StagedDirectory staged(folder / "step-1");
    write_text_atomic(staged.path() / "a", "A");
  }
  EXPECT_TRUE(folder.names().empty());
}

TEST(StagedDirectory, NeverReplacesWhatExists) {
  const TemporaryFolder folder;
  for (const bool empty : {true, false}) {
    const fs::path target = folder / (empty ? "empty" : "full");
    fs::create_directory(target);
    if (!empty) write_text_atomic(target / "a", "old");
    EXPECT_THAT(message_of<IoError>([&] {
                  StagedDirectory staged(target);
                  write_text_atomic(staged.path() / "a", "new");
                  staged.commit();
                }),
                AllOf(HasSubstr(target.string()), HasSubstr("one that exists")));
  }
  EXPECT_TRUE(fs::is_empty(folder / "empty"));
  EXPECT_EQ(read_text(folder / "full/a"), "old");
  EXPECT_THAT(folder.names(), ElementsAre("empty", "full"));
}

TEST(StagedDirectory, TrailingSlashNamesTheSameFolder) {
  const TemporaryFolder folder;
  StagedDirectory staged(folder / "step-1/");
  staged.commit();
  EXPECT_THAT(folder.names(), ElementsAre("step-1"));
}

TEST(RemoveStaleTemporaries, RemovesWhatAKilledProcessLeftAndNothingElse) {
  const TemporaryFolder folder;
  folder.write("keep", "x");
  folder.write(".hidden", "x");
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(folder / "a");
    const StagedDirectory staged(folder / "b");
    write_text_atomic(staged.path() / "c", "x");
    ::kill(::getpid(), SIGKILL);
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(folder.names().size(), 4U);
  EXPECT_EQ(remove_stale_temporaries(folder.path()), 2U);
  EXPECT_THAT(folder.names(), ElementsAre(".hidden", "keep"));
  EXPECT_THAT(message_of<IoError>([&] { remove_stale_temporaries(folder / "none"); }), HasSubstr("cannot list"));
}

// ---- locks ----

TEST(DirectoryLock, SecondHolderIsRefusedWithTheFirstsName) {
  const TemporaryFolder folder;
  {
    const DirectoryLock lock(folder.path());
    const std::string message = message_of<IoError>([&] { const DirectoryLock second(folder.path()); });
    EXPECT_THAT(message, AllOf(HasSubstr(folder.path().string()), HasSubstr("process " + std::to_string(::getpid()))));
  }
  EXPECT_NO_THROW(DirectoryLock{folder.path()});
}

TEST(DirectoryLock, DiesWithItsProcess) {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    const DirectoryLock lock(folder.path());
    ::kill(::getpid(), SIGKILL);
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_NO_THROW(DirectoryLock{folder.path()});
}

TEST(DirectoryLock, NeedsTheFolder) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of<IoError>([&] { const DirectoryLock lock(folder / "none"); }), HasSubstr("No such file"));
}

// ---- paths found in files ----

std::string path_refusal(const fs::path& root, std::string_view relative) {
  return message_of<FormatError>([&] { static_cast<void>(resolve_beneath(root, relative, "index.json")); });
}

TEST(ResolveBeneath, JoinsAPathThatStays) {
  const TemporaryFolder folder;
  folder.write("data/chunk-000/a.parquet", "x");
  EXPECT_EQ(resolve_beneath(folder.path(), "data/chunk-000/a.parquet", "x"), folder / "data/chunk-000/a.parquet");
  EXPECT_EQ(resolve_beneath(folder.path(), "./data/./x", "x"), folder / "data/x");
  EXPECT_EQ(resolve_beneath(folder.path(), "not/yet/there", "x"), folder / "not/yet/there");
  EXPECT_EQ(resolve_beneath(folder.path(), "..hidden", "x"), folder / "..hidden");
}

TEST(ResolveBeneath, RefusesWhatLeaves) {
  const TemporaryFolder folder;
  EXPECT_THAT(path_refusal(folder.path(), "/etc/passwd"), AllOf(HasSubstr("index.json"), HasSubstr("absolute")));
  EXPECT_THAT(path_refusal(folder.path(), "../x"), HasSubstr("it has \"..\""));
  EXPECT_THAT(path_refusal(folder.path(), "a/../../x"), HasSubstr("it has \"..\""));
  EXPECT_THAT(path_refusal(folder.path(), "a/.."), HasSubstr("it has \"..\""));
  EXPECT_THAT(path_refusal(folder.path(), ""), HasSubstr("empty"));
  EXPECT_THAT(path_refusal(folder.path(), std::string_view("a\0b", 3)), HasSubstr("zero byte"));
}

TEST(ResolveBeneath, RefusesALinkThatLeavesAndFollowsOneThatStays) {
  const TemporaryFolder folder;
  folder.write("root/real/a", "x");
  folder.write("secret", "x");
  fs::create_symlink("../secret", folder / "root/escape");
  fs::create_directory_symlink("/", folder / "root/slash");
  fs::create_directory_symlink("real", folder / "root/alias");
  const fs::path root = folder / "root";
  EXPECT_THAT(path_refusal(root, "escape"), HasSubstr("a symbolic link leads to"));
  EXPECT_THAT(path_refusal(root, "slash/etc"), HasSubstr("a symbolic link leads to"));
  EXPECT_EQ(resolve_beneath(root, "alias/a", "x"), root / "alias/a");
}

TEST(ResolveBeneath, RefusesALoopOfLinks) {
  const TemporaryFolder folder;
  fs::create_symlink("b", folder / "a");
  fs::create_symlink("a", folder / "b");
  EXPECT_THAT(path_refusal(folder.path(), "a/x"), HasSubstr("index.json"));
}

TEST(ResolveBeneath, RootItselfMayBeReachedThroughALink) {
  const TemporaryFolder folder;
  folder.write("real/a", "x");
  fs::create_directory_symlink("real", folder / "link");
  EXPECT_EQ(resolve_beneath(folder / "link", "a", "x"), folder / "link/a");
}

TEST(ResolveBeneath, FolderWithTheRootsNameAsPrefixIsOutside) {
  const TemporaryFolder folder;
  folder.write("root-other/a", "x");
  fs::create_directory(folder / "root");
  fs::create_directory_symlink("../root-other", folder / "root/link");
  EXPECT_THAT(path_refusal(folder / "root", "link/a"), HasSubstr("a symbolic link leads to"));
}

TEST(ResolveBeneath, SnapshotOfAHubCacheMayLinkToItsBlobs) {
  const TemporaryFolder folder;
  folder.write("models--org--name/blobs/0123", "x");
  folder.write("other", "x");
  const fs::path snapshot = folder / "models--org--name/snapshots/abc";
  fs::create_directories(snapshot);
  fs::create_symlink("../../blobs/0123", snapshot / "model.safetensors");
  fs::create_symlink("../../../other", snapshot / "escape");
  EXPECT_EQ(resolve_beneath(snapshot, "model.safetensors", "x"), snapshot / "model.safetensors");
  EXPECT_EQ(resolve_beneath(snapshot / "", "model.safetensors", "x"), snapshot / "model.safetensors");
  EXPECT_THAT(path_refusal(snapshot, "escape"), HasSubstr("a symbolic link leads to"));
}

TEST(FreeBytes, AsksTheNearestExistingFolder) {
  const TemporaryFolder folder;
  EXPECT_GT(free_bytes(folder.path()), 0U);
  EXPECT_GT(free_bytes(folder / "not/yet/there"), 0U);
}

}  // namespace
}  // namespace thaw::files_test

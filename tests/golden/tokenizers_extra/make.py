"""Tokenizers that take the branches which ../tokenizers leaves out, and what the reference libraries answer.

pip install tokenizers==0.22.2 sentencepiece==0.2.3
python make.py --out DIR [--seed S]

Every byte-level set is ../tokenizers/smol/tokenizer.json with other components:

flags      added tokens with every flag (lstrip, rstrip, single_word, normalized); a prefix space before every piece
qwen       a Split by regular expression, then ByteLevel without one; a template that adds two tokens
behaviors  Split by a string and by a pattern, kept with the piece before and behind; merges as pairs; ignore_merges
ambiguous  random merges that reach one token by several ways; an unknown token, fused; bytes missing from the vocabulary
unigram    SentencePiece, unigram with byte fallback, a dummy prefix and collapsed spaces (Llama's habits)

A case is {"text", "ids"}. Texts keep to characters that Unicode had by version 14.
"""
import argparse
import copy
import io
import json
import random
import unicodedata
from pathlib import Path

import sentencepiece as spm
from tokenizers import Tokenizer

BASE = Path(__file__).parent.parent / "tokenizers" / "smol" / "tokenizer.json"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = ["pick", "up", "the", "cube", "don't", "WE'LL", "'tis", "12345", "3.14", "½", "²Ⅻ", "tiroir,", "引き出し", "é", "e\u0301",
         "🤖👍🏽", "_", "-", "x" * 40, "State:", ";"]
SPACES = ["", " ", "  ", "\n", "\t", "\u00a0", "\u2003", "\u3000", "\u180e", "\u200b", "\x1c", "\x85", " \n\n "]


def mixed(rng, extra, count):
    """Texts of words, spaces and the set's own tokens in any order."""
    parts = WORDS + SPACES + extra * 3
    return ["".join(rng.choice(parts) for _ in range(rng.randint(1, 10))) for _ in range(count)]


def scrambled(rng, count):
    """Single characters of all planes that were assigned early enough."""
    planes = [c for c in range(1, 0x20000) if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs", "Co")]
    return ["".join(chr(rng.choice(planes)) for _ in range(rng.randint(1, 25))) for _ in range(count)]


def write_set(folder, spec, texts):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False, separators=(",", ":")))
    write_cases(folder, [(text, tokenizer.encode(text).ids) for text in texts])


def write_cases(folder, pairs):
    lines = [json.dumps({"text": text, "ids": ids}, ensure_ascii=False) for text, ids in pairs]
    (folder / "cases.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def split(pattern, behavior, invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def flags(base, rng, out):
    spec = copy.deepcopy(base)
    known = spec["model"]["vocab"]
    tokens = [("<l>", "lstrip"), ("<r>", "rstrip"), ("<both>", "lstrip", "rstrip"), ("word", "single_word"), ("<n>", "normalized"),
              ("<nl>", "normalized", "lstrip"), ("<r><l>", "rstrip"), ("  ", "normalized"), ("日本", "single_word", "normalized"),
              (".", "single_word", "lstrip"), ("cube", "normalized"), ("cu",)]
    following = max(token["id"] for token in spec["added_tokens"]) + 1
    for content, *set_flags in tokens:
        entry = {"id": known.get(content, following), "content": content}
        entry |= {flag: flag in set_flags for flag in ("single_word", "lstrip", "rstrip", "normalized")}
        spec["added_tokens"].append(entry | {"special": False})
        following += content not in known
    spec["pre_tokenizer"] = sequence({"type": "Digits", "individual_digits": False}, BYTE_LEVEL | {"add_prefix_space": True, "use_regex": True})
    write_set(out / "flags", spec, mixed(rng, [token[0] for token in tokens], 150) + scrambled(rng, 20))


def qwen(base, rng, out):
    spec = copy.deepcopy(base)
    spec["pre_tokenizer"] = sequence(split({"Regex": QWEN}, "Isolated"), BYTE_LEVEL)
    special = {name: {"id": name, "ids": [number], "tokens": [name]} for number, name in ((1, "<|im_start|>"), (2, "<|im_end|>"))}
    single = [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": special}
    spec["post_processor"] = {"type": "Sequence", "processors": [BYTE_LEVEL, template]}
    write_set(out / "qwen", spec, mixed(rng, ["<image>"], 100) + scrambled(rng, 20))


def behaviors(base, rng, out):
    spec = copy.deepcopy(base)
    spec["model"]["merges"] = [pair.split(" ") if isinstance(pair, str) else pair for pair in spec["model"]["merges"]]
    spec["model"]["ignore_merges"] = True
    spec["pre_tokenizer"] = sequence(split({"String": "e"}, "MergedWithPrevious"), split({"Regex": r"\d|\s"}, "MergedWithNext"),
                                     split({"Regex": "u*|^p|.$"}, "Contiguous"), split({"Regex": r"[^.;]"}, "Removed", invert=True), BYTE_LEVEL)
    write_set(out / "behaviors", spec, mixed(rng, ["eee", "e e", "12 e", "u"], 100))


def ambiguous(base, rng, out):
    spec = copy.deepcopy(base)
    spec["added_tokens"] = []
    vocabulary = {token: number for token, number in base["model"]["vocab"].items() if len(token) == 1 and token not in "qz"}
    vocabulary["<unk>"] = 2000
    tokens, merges = list("abcd"), []
    while len(merges) < 150:
        left, right = rng.choice(tokens), rng.choice(tokens)
        if len(left + right) > 8:
            continue
        if left + right not in vocabulary:
            vocabulary[left + right] = 1000 + len(merges)
            tokens.append(left + right)
        merges.append([left, right])
    spec["model"] |= {"vocab": vocabulary, "merges": merges, "unk_token": "<unk>", "fuse_unk": True}
    write_set(out / "ambiguous", spec, ["".join(rng.choice("abcdabcdabcd qz") for _ in range(rng.randint(1, 50))) for _ in range(150)])


def unigram(rng, out):
    folder = out / "unigram"
    folder.mkdir(parents=True, exist_ok=True)
    corpus = [" ".join(rng.choice(WORDS[:12]) for _ in range(rng.randint(3, 9))) for _ in range(2000)]
    model = io.BytesIO()  # a file's name would become part of the model
    spm.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=model, vocab_size=330, model_type="unigram", byte_fallback=True,
                                   normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=True,
                                   hard_vocab_limit=False, num_threads=1, minloglevel=2)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    texts = mixed(rng, [" lead", "▁"], 100) + scrambled(rng, 20)
    write_cases(folder, [(text, [processor.bos_id()] + processor.encode(text)) for text in texts])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    base = json.loads(BASE.read_text())
    for make in (flags, qwen, behaviors, ambiguous):
        make(base, rng, arguments.out)
    unigram(rng, arguments.out)


if __name__ == "__main__":
    main()

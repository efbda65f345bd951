"""The Dockerfile, as far as it can be held to something without a container engine."""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import chart

DOCKERFILE = chart.REPOSITORY / "helm/image/Dockerfile"
IGNORED = chart.REPOSITORY / "helm/image/Dockerfile.dockerignore"


def lint(text):
    """What hadolint says, as (line, code)."""
    done = subprocess.run(
        [chart.TOOLS / "python/bin/hadolint", "--format", "json", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    return [(found["line"], found["code"]) for found in json.loads(done.stdout)]


def kept():
    """Names at the top of the repository that the build sees."""
    lines = [line for line in IGNORED.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*" and all(line.startswith("!") for line in lines[1:]), lines
    return [line[1:] for line in lines[1:]]


class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.text = DOCKERFILE.read_text()
        cls.last = cls.text.split("AS cpu\n")[1]

    def test_the_linter_finds_nothing_to_complain_of(self):
        self.assertEqual(lint(self.text), [])

    def test_what_the_linter_is_for_is_found(self):
        for old, new, code in [
            ("rust:1.95-bookworm", "rust:latest", "DL3007"),
            ("USER 65532:65532", "USER root", "DL3002"),
            ("--no-cache-dir ", "", "DL3042"),
            ("nvidia-cublas-cu12==12.9.1.4", "nvidia-cublas-cu12", "DL3013"),
            ("WORKDIR /src", "WORKDIR src", "DL3000"),
        ]:
            with self.subTest(code):
                self.assertIn(old, self.text)
                self.assertIn(code, [found for _, found in lint(self.text.replace(old, new))])

    def test_it_runs_as_the_user_that_pods_run_as(self):
        (user,) = re.findall(r"^USER (\d+):(\d+)$", self.text, re.M)
        context = chart.pod(chart.one(chart.render(), "Deployment", "-server"))["securityContext"]
        self.assertEqual(user, (str(context["runAsUser"]), str(context["runAsGroup"])))

    def test_nothing_in_the_image_that_is_made_runs_a_shell(self):
        self.assertNotIn("RUN ", self.last)
        self.assertIn('ENTRYPOINT ["/usr/local/bin/shoal"]', self.last)

    def test_it_is_built_by_the_compiler_that_the_workspace_asks_for(self):
        version = re.search(r'^rust-version = "([\d.]+)"', (chart.REPOSITORY / "Cargo.toml").read_text(), re.M)[1]
        self.assertIn(f"FROM rust:{version}-bookworm ", self.text)
        # As the readme has it, and what runs is as old as what it was built on.
        self.assertIn("cargo build --release", self.text)
        self.assertIn("/distroless/cc-debian12:", self.text)

    def test_the_build_sees_all_that_cargo_reads_and_nothing_else(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in kept():
                source = chart.REPOSITORY / name
                if source.is_dir():
                    shutil.copytree(source, pathlib.Path(folder) / name, ignore=shutil.ignore_patterns("target"))
                else:
                    shutil.copy(source, folder)
            read = subprocess.run(
                ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            self.assertEqual(read.returncode, 0, read.stderr)
            packages = json.loads(read.stdout)["packages"]
            self.assertIn("shoal-server", [package["name"] for package in packages])
            # What sources take in as text lies there too.
            for source in pathlib.Path(folder).rglob("src/**/*.rs"):
                for taken in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', source.read_text()):
                    self.assertTrue((source.parent / taken).exists(), f"{source}: {taken}")
        top = {package["manifest_path"].removeprefix(f"{folder}/").split("/")[0] for package in packages}
        self.assertEqual(set(kept()), top | {"Cargo.toml", "Cargo.lock"})

    def test_workers_find_the_libraries_that_it_brings(self):
        (folder,) = re.findall(r"SHOAL_CUDA_LIBRARIES=(\S+)", self.last)
        self.assertIn(f"COPY --from=cuda /cuda {folder}\n", self.last)
        source = (chart.REPOSITORY / "worker/src/cuda/library.rs").read_text()
        wanted = re.findall(r'"(lib\w[\w-]*\.so)"', re.search(r"const LIBRARIES: [^;]+;[^;]+;", source)[0])
        self.assertEqual(len(wanted), 3)
        for library in wanted:
            self.assertRegex(self.text, rf"/{re.escape(library)}\.12[.\d]* ")


if __name__ == "__main__":
    unittest.main()

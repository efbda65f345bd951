"""What the guide says to paste renders, and what it names is there."""

import re
import shlex
import unittest

import yaml

import chart
from chart import values

GUIDE = chart.REPOSITORY / "server/docs/kubernetes.md"


class Guide(unittest.TestCase):
    text = GUIDE.read_text()

    def test_the_lines_to_paste_install_the_chart(self):
        block = self.text.split("\n    docker build")[1].split("\n\n")[0].replace("\\\n", " ")
        self.assertLessEqual(block.count("\n") + 1, 10)
        (install,) = [shlex.split(line) for line in block.splitlines() if line.strip().startswith("helm install")]
        self.assertEqual(install[:4], ["helm", "install", "shoal", "helm/shoal"])
        wanted = [arg for arg in install[4:] if arg not in ("--create-namespace", "--wait")]
        objects = chart.parse(chart.helm("template", "shoal", chart.CHART, "--kube-version", chart.KUBERNETES, *wanted))
        # The names that the lines after it use.
        for line in block.splitlines():
            if found := re.search(r"kubectl -n (\S+) port-forward service/(\S+) ([\d ]+) &", line):
                service = chart.one(objects, "Service", found[2])
                self.assertEqual(service["metadata"]["namespace"], found[1])
                ports = {str(port["port"]) for port in service["spec"]["ports"]}
                self.assertEqual(ports, set(found[3].split()))
        self.assertIn("port-forward", block)
        chart.one(objects, "Deployment", "shoal-server")

    def test_every_example_renders(self):
        examples = re.findall(r"```yaml\n(.*?)```", self.text, re.S)
        self.assertEqual(len(examples), 5)
        for example in examples:
            with self.subTest(example):
                chart.text(yaml.safe_load(example))

    def test_every_value_that_is_named_exists(self):
        leaves = [path for path, _ in values.leaves(values.SCHEMA)]
        tops = {path.split(".")[0] for path in leaves}
        named = [name for name in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)+)`", self.text) if name.split(".")[0] in tops]
        self.assertGreater(len(named), 10)
        for name in named:
            with self.subTest(name):
                self.assertTrue(any(path == name or path.startswith(f"{name}.") for path in leaves))

    def test_every_link_leads_somewhere(self):
        for page in (GUIDE, values.README, chart.REPOSITORY / "helm/tests/README.md"):
            links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text())
            self.assertTrue(links)
            for path, anchor in links:
                if path.startswith("http"):
                    continue
                target = (page.parent / path).resolve() if path else page
                with self.subTest(page.name, link=path):
                    self.assertTrue(target.exists(), target)
                    if anchor:
                        headings = {
                            re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-")
                            for h in re.findall(r"^#+ (.*)$", target.read_text(), re.M)
                        }
                        self.assertIn(anchor, headings)


if __name__ == "__main__":
    unittest.main()

"""Sphinx's configuration of the documentation site. scripts/docs builds it."""

project = "Celery Fleet"
html_title = project
html_theme = "sphinx_ansible_theme"
root_doc = "index"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
# Links to headings (page.md#heading), to the depth that the pages use.
myst_heading_anchors = 4
# Labels of Ansible's own documentation, which is not part of the site.
suppress_warnings = ["ref.ref"]

"""Writes profiles/profiles.yml: `python -m pgsplit.project.profiles > profiles/profiles.yml`.

dbt wants host, port, user, password and database one by one, the environment gives URLs, and
the Jinja of a profile has no URL parser and no macros. So each field is an expression over the
URL, the same one for seven outputs; this module is where it is said once. A test holds the
committed file against `render()` and the expressions against libpq's own parser.
"""

from __future__ import annotations

from pgsplit.project.project import Project, find

HEADER = """\
# Written by `python -m pgsplit.project.profiles`; edit that module, not this file.
#
# Every output takes its URL from the environment. A service without one of its own lives beside
# the monolith; with nothing set at all, everything lives on the embedded server, whose socket
# directory is a function of the project's directory (pgsplit/postgres/embedded.py).
"""

EMBEDDED = "'postgresql://postgres@/?host=/tmp/NAME-' ~ local_md5(flags.PROFILES_DIR)[:12]"

# For each field: where a URL may hold it, best first, and what holds when none does.
# A parameter behind `?` beats the part before it, and what stands before an @ is no host.
AUTHORITY = "://(?:[^@/?]*@|(?![^/?]*@))"
HOST, NO_HOST = r"(?:\\[([^\\]]+)\\]|([^:/?\\[]+))", r"(?:\\[[^\\]]*\\]|[^:/?\\[]*)"
PATTERNS = {
    "host": (f"[?&]host=([^&]+)|(?!.*[?&]host=){AUTHORITY}{HOST}", "localhost"),
    "port": (f"[?&]port=([0-9]+)|(?!.*[?&]port=){AUTHORITY}{NO_HOST}:([0-9]+)", "5432"),
    "user": ("[?&]user=([^&]+)|(?!.*[?&]user=)://([^:@/?]+)(?::[^@/?]*)?@", "postgres"),
    "password": ("[?&]password=([^&]+)|(?!.*[?&]password=)://[^:@/?]*:([^@/?]*)@", ""),
    "dbname": ("[?&]dbname=([^&]+)|(?!.*[?&]dbname=)://[^/?]*/([^?]+)", ""),
    "sslmode": ("[?&]sslmode=([^&]+)", "prefer"),
    "sslrootcert": ("[?&]sslrootcert=([^&]+)", ""),
}
# %C3%A9 becomes \\xC3\\xA9, those bytes become UTF-8: the decoding that a URL asks for.
DECODED = ".replace('%', '\\\\x').encode().decode('unicode_escape').encode('latin1').decode()"


def _field(project: Project, target: str, name: str) -> str:
    own = f"env_var('{target.upper()}_URL', '')"
    pattern, default = PATTERNS[name]
    if name == "dbname":  # the monolith's URL names the monolith's database, not a service's
        url, default = own, target
    elif target == project.name:
        url = f"{own} or {EMBEDDED.replace('NAME', project.name)}"
    else:
        url = f"{own} or env_var('{project.name.upper()}_URL', '') "
        url += f"or {EMBEDDED.replace('NAME', project.name)}"
    ending = " | as_number" if name == "port" else DECODED
    return (
        f"      {name}: >-\n"
        f"        {{%- set url = {url} -%}}\n"
        f"        {{%- set found = modules.re.findall('{pattern}', url) | map('join') | list -%}}\n"
        f"        {{{{ (found + ['{default}'])[0]{ending} }}}}"
    )


def _output(project: Project, target: str) -> str:
    schema = "split" if target == project.name else target
    lines = [f"    {target}:", "      <<: *postgres", f"      schema: {schema}"]
    return "\n".join(lines + [_field(project, target, name) for name in PATTERNS])


def render(project: Project) -> str:
    """Give the text of profiles.yml: one output for the monolith and one for each service.

    Returns:
        YAML with one Jinja expression per connection field.
    """
    outputs = "\n".join(_output(project, target) for target in project.targets)
    return (
        f"{HEADER}\n"
        "postgres: &postgres {type: postgres, threads: 4, connect_timeout: 10}\n\n"
        f"{project.name}:\n"
        f"  target: {project.targets[1]}\n"
        "  outputs:\n"
        f"{outputs}\n"
    )


if __name__ == "__main__":
    print(render(find()), end="")

"""`docs` on Blytz Hire: what it says, and whether a person finds a column in a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from demo.project import MONOLITH, PROJECT
from pgsplit.postgres.connect import with_database
from tests.support import schemas
from tests.support.browser import browser
from tests.support.split import Split
from tests.support.waiting import until

pytestmark = pytest.mark.slow

READER = "lineage_reader"


class Links(HTMLParser):
    """A page's addresses and anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src"):
                self.addresses.add(value or "")
            elif name == "id":
                self.anchors.add(value or "")


def test_site_of_all_databases_as_they_are(living: Split, tmp_path: Path) -> None:
    """One service is built; the others' databases are not there yet."""
    site = tmp_path / "site"
    ran = living.runner("docs", "--json", "--output", str(site))
    assert ran.returncode == 0, ran.stderr
    found = schemas.validate(ran.stdout)
    assert found["mismatches"] == []
    assert found["unread"].keys() == set(PROJECT.services) - {"payments_db"}
    columns = [one for table in found["monolith"].values() for one in table["columns"]]
    assert len(columns) == 269
    assert [one["name"] for one in columns if not one["description"]] == []
    assert [one["name"] for one in columns if not one["comes_back_from"]] == []

    payments = found["services"]["payments_db"]["tables"]["payments"]
    with living.service("payments_db") as database:
        rows = database.execute("select count(*) from payments_db.payments").fetchone()
    assert (payments["rows"], payments["is_estimate"]) == ((rows or (0,))[0], False)
    assert payments["owner"] == "payments_owner"
    by_name = {one["name"]: one for one in payments["columns"]}
    assert by_name["created_at"]["data_type"] == "timestamp(3) without time zone"
    assert [one["status"] for one in by_name["sender_id"]["tests"]] == ["pass"]
    users = found["services"]["users_db"]["tables"]["users"]
    assert users["rows"] is None and len(users["columns"]) == 9

    links_lead_somewhere(site)
    with browser(tmp_path / "profile") as driver:
        person_searches_for_a_column(driver, site)
        person_clicks_there_from_the_front_page(driver, site)
        nothing_was_asked_of_the_network(driver)


def links_lead_somewhere(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html")}
    assert len(pages) == 1 + 6 + 33 + 18
    for page, links in pages.items():
        for address in links.addresses:
            file, _, anchor = address.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.is_file(), (page, address)
            assert not anchor or anchor in pages[target].anchors, (page, address)


def row_of_amount(driver: Chrome) -> str:
    """Give what the marked column's row says."""
    return driver.find_element(By.CSS_SELECTOR, "tr:target").text


def person_searches_for_a_column(driver: Chrome, site: Path) -> None:
    driver.get((site / "index.html").as_uri())
    driver.find_element(By.TAG_NAME, "body").send_keys("/", "payments.amount")
    first = driver.find_element(By.CSS_SELECTOR, "#found a")
    assert first.text.splitlines() == [
        "payments_db.payments.amount",
        "numeric, from payments.amount",
    ]
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    until(lambda: driver.title == "payments_db.payments")
    said = row_of_amount(driver)
    assert "numeric, not null" in said and "Amount in major units" in said
    assert "payments.amount cents to units\nround(amount / 100.0, 2)" in said


def person_clicks_there_from_the_front_page(driver: Chrome, site: Path) -> None:
    driver.set_window_size(400, 900)
    driver.get((site / "index.html").as_uri())
    driver.find_element(By.CSS_SELECTOR, ".graph a[data-key=payments_db]").click()
    until(lambda: driver.title == "payments_db")
    driver.find_element(By.CSS_SELECTOR, ".graph a[data-key='t:payments']").click()
    until(lambda: driver.title == "payments_db.payments")
    driver.find_element(By.CSS_SELECTOR, ".graph a[data-key='m:payments.amount']").click()
    until(lambda: driver.title == "blytz_hire.payments")
    said = row_of_amount(driver)
    assert "in cents" in said
    assert "payments_db.payments.amount cents to units" in said
    assert said.count("payments_db.payments.amount") == 2  # where it goes, what it comes back from
    width = driver.execute_script("return document.documentElement.scrollWidth")
    assert width <= driver.execute_script("return window.innerWidth")  # nothing sticks out


def nothing_was_asked_of_the_network(driver: Chrome) -> None:
    said = [json.loads(one["message"])["message"] for one in driver.get_log("performance")]
    asked = [
        one["params"]["request"]["url"]
        for one in said
        if one["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.endswith("index.html") for url in asked)
    assert [url for url in asked if re.match("https?:|wss?:|ftp:", url)] == []
    assert driver.get_log("browser") == []  # no error either


def test_login_that_may_only_connect_is_enough(living: Split, tmp_path: Path) -> None:
    living.server.execute(f"create role {READER} login password 'secret'")
    url = with_database(living.server.tcp, MONOLITH, user=READER, password="secret")
    for database in (MONOLITH, "payments_db"):
        living.server.execute(f'grant connect on database "{database}" to {READER}')
    ran = living.runner("docs", "--json", "--output", str(tmp_path / "site"), BLYTZ_HIRE_URL=url)
    assert ran.returncode == 0, ran.stderr
    found = schemas.validate(ran.stdout)
    assert "permission denied" in found["unread"]["the ledger"]
    assert not {"payments_db", MONOLITH} & found["unread"].keys()
    payments = found["services"]["payments_db"]
    assert payments["state"] == "unknown"
    assert payments["tables"]["payments"]["owner"] == "payments_owner"
    assert payments["tables"]["payments"]["is_estimate"] is True


def test_dbt_docs_of_a_service_show_its_own_database(living: Split, tmp_path: Path) -> None:
    made = living.dbt(
        *("docs", "generate", "--target", "payments_db", "--target-path", str(tmp_path))
    )
    assert made.returncode == 0, made.stdout
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    catalog = json.loads((tmp_path / "catalog.json").read_text("utf-8"))
    payments = manifest["nodes"]["model.blytz_hire.payments"]
    assert payments["group"] == "payments"
    assert payments["docs"] == {"show": True, "node_color": "#0b7a83"}
    (exposure,) = manifest["exposures"].values()
    assert exposure["name"] == "payments_service"
    models = [one for one in manifest["nodes"].values() if one["resource_type"] == "model"]
    read = {manifest["nodes"][one]["name"] for one in exposure["depends_on"]["nodes"]}
    assert read == {one["name"] for one in models if one["schema"] == "payments_db"}
    overview = manifest["docs"]["doc.blytz_hire.__overview__"]["block_contents"]
    assert "runner.py docs" in overview
    amount = catalog["nodes"]["model.blytz_hire.payments"]["columns"]["amount"]
    assert (amount["type"], amount["comment"]) == (
        "numeric",
        payments["columns"]["amount"]["description"],
    )
    mirror = catalog["sources"]["source.blytz_hire.blytz_hire.payments"]
    assert mirror["columns"]["amount"]["type"] == "integer"

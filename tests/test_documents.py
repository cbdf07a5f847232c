"""The documents of the interface, as clients and browsers get them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from django.conf import settings
from django.core.management import call_command
from django.test import Client
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate


@pytest.fixture
def client() -> Client:
    return Client(headers={"host": "localhost"})


def test_the_openapi_document_is_valid_and_complete(tmp_path: Path) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "openapi.yaml"))
    paths = yaml.safe_load((tmp_path / "openapi.yaml").read_text())["paths"]
    assert {"/v1/auth/login", "/v1/me", "/v1/contacts", "/v1/conversations"} <= paths.keys()
    for operations in paths.values():
        for operation in operations.values():
            assert operation.get("summary")


@pytest.mark.pure
def test_the_openapi_document_can_be_imported_as_it_is() -> None:
    text = (settings.BASE_DIR / "docs/openapi.yaml").read_text()
    document = yaml.safe_load(text)
    validate(document)
    assert document["openapi"].startswith("3.")
    assert document["servers"] == [{"url": "http://127.0.0.1:8000"}]
    schemes = document["components"]["securitySchemes"]
    assert (schemes["bearer"]["type"], schemes["bearer"]["scheme"]) == ("http", "bearer")
    names = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            names.add(operation["operationId"])
            assert operation["tags"], where
            # With a token, if anything: importers take the first way of signing in.
            assert list(operation["security"][0]) in ([], ["bearer"]), where
            for parameter in operation.get("parameters", ()):
                assert parameter["in"] != "path" or "example" in parameter, where
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is not None:
                examples = [example["value"] for example in body["examples"].values()]
                assert examples, where
                schema = {**body["schema"], "components": document["components"]}
                for example in examples:
                    OAS31Validator(schema).validate(example)
    assert len(names) == sum(len(operations) for operations in document["paths"].values())


def test_the_schema_names_the_server_that_it_was_asked_from(client: Client) -> None:
    assert client.get("/v1/schema").json()["servers"] == [{"url": "http://localhost"}]


def test_the_schema_comes_in_json_and_in_yaml(client: Client) -> None:
    as_json = client.get("/v1/schema")
    assert (as_json.status_code, as_json["Content-Type"]) == (200, "application/json")
    as_yaml = client.get("/v1/schema", headers={"accept": "application/yaml"})
    assert as_yaml["Content-Type"].startswith("application/yaml")
    assert yaml.safe_load(as_yaml.content) == json.loads(as_json.content)


def test_asyncapi_is_served_as_it_is_kept(client: Client) -> None:
    answer = client.get("/v1/asyncapi")
    assert answer["Content-Type"] == "application/json"
    assert answer.json() == json.loads((settings.BASE_DIR / "docs/asyncapi.json").read_text())


def test_a_bad_token_does_not_hide_the_documents(client: Client) -> None:
    for path in ("/v1/schema", "/v1/docs", "/v1/asyncapi"):
        assert client.get(path, headers={"authorization": "Bearer nonsense"}).status_code == 200


@pytest.mark.django_db
def test_the_page_and_all_that_it_loads_come_from_here(client: Client) -> None:
    page = client.get("/v1/docs")
    assert page.status_code == 200
    text = page.content.decode()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert any("favicon" in path for path in loaded)
    assert len(loaded) >= 5
    for path in loaded:
        assert path.startswith("/")
        assert not path.startswith("//")
        answer = client.get(path)
        answer.close()
        assert answer.status_code == 200, path
    script = client.get("/v1/docs?script=").content.decode()
    assert "SwaggerUIBundle" in script
    assert '"validatorUrl": null' in script
    for content in (text, script):
        assert not re.search(r"https?://", content)


def test_the_browser_is_told_to_load_nothing_from_elsewhere(client: Client) -> None:
    policy = client.get("/v1/docs")["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src", 1)[1].split(";")[0]
    assert "//" not in policy

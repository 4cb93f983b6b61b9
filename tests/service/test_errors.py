"""Invalid requests get an error response that names the field, and the server keeps running."""

from __future__ import annotations

import base64
import io
import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from planner_service.app import create_app
from planner_service.images import encode_image
from tests.service.fakes import CARD, FakePlanner, picture, serving_ready

GOOD = encode_image(picture())
PLAIN = encode_image(np.zeros((48, 64, 3), np.uint8))  # short, because hypothesis prints what it draws from
JSON = {"content-type": "application/json"}
CORNER = {"x0": 0, "y0": 0, "x1": 9, "y1": 9}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with serving_ready(create_app(FakePlanner())) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def body(**changes: Any) -> dict[str, Any]:
    return {"frames": [GOOD], "goal": {"kind": "label", "labels": ["left"]}, **changes}


def check_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "request_id", "errors"}
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    assert len(answer.content) < 20_000
    return problem


def file_text(image: Image.Image, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return base64.b64encode(stream.getvalue()).decode()


def png_header(width: int, height: int) -> str:
    """A PNG that claims a size and holds almost nothing: an image bomb."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(data).decode()


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no frames field": ({"goal": body()["goal"]}, "frames", "required"),
    "no frames": (body(frames=[]), "frames", "at least 1"),
    "too many frames": (body(frames=[GOOD] * 65), "frames", "at most 64"),
    "wrong shape": (
        body(frames=[GOOD, encode_image(picture(0, 64, 48))]),
        "frames.1",
        "64 x 48 pixels (height x width); this camera gives 48 x 64",
    ),
    "wrong goal shape": (
        body(goal={"kind": "image", "image": encode_image(picture(0, 64, 32))}),
        "goal.image",
        "48 x 64",
    ),
    "not base64": (body(frames=["%%%"]), "frames.0", "base64"),
    "not an image": (body(frames=[base64.b64encode(b"hello").decode()]), "frames.0", "neither a PNG nor a JPEG"),
    "gif": (body(frames=[file_text(Image.new("RGB", (64, 64)), "GIF")]), "frames.0", "neither a PNG nor a JPEG"),
    "16 bits": (body(frames=[file_text(Image.new("I;16", (64, 48)), "PNG")]), "frames.0", "8-bit"),
    "cmyk": (body(frames=[file_text(Image.new("CMYK", (64, 48)), "JPEG")]), "frames.0", "CMYK"),
    "truncated": (body(frames=[GOOD[:4000]]), "frames.0", "truncated"),
    "bomb": (body(frames=[png_header(100_000, 100_000)]), "frames.0", "this camera gives 48 x 64"),
    "half a bomb": (body(frames=[png_header(9000, 9000)]), "frames.0", "9000 x 9000"),
    "empty right size": (body(frames=[png_header(64, 48)]), "frames.0", "truncated"),
    "frame is a number": (body(frames=[3]), "frames.0", "string"),
    "nested lists": (body(frames=[[[0, 0, 0]]]), "frames.0", "string"),
    "no goal": ({"frames": [GOOD]}, "goal", "required"),
    "unknown goal": (body(goal={"kind": "smell"}), "goal", "'image', 'text', 'label', 'latent'"),
    "goal without image": (body(goal={"kind": "image"}), "goal.image", "required"),
    "goal of two kinds": (body(goal={"kind": "text", "text": "x", "labels": []}), "goal.labels", "not permitted"),
    "unknown label": (
        body(goal={"kind": "label", "labels": ["left", "up"]}),
        "goal.labels.1",
        "choose one of: left, right",
    ),
    "no label": (body(goal={"kind": "label", "labels": []}), "goal.labels", "at least 1"),
    "blank text": (body(goal={"kind": "text", "text": " \n"}), "goal.text", "blank"),
    "latent shape": (body(goal={"kind": "latent", "state": [[0.0, 1.0]]}), "goal.state", "3 x 4"),
    "latent huge number": (body(goal={"kind": "latent", "state": [[1e300] * 4] * 3}), "goal.state", "32-bit"),
    "region outside": (
        body(goal={"kind": "image", "image": GOOD, "region": {"x0": 0, "y0": 10, "x1": 64, "y1": 49}}),
        "goal.region",
        "rows 10 to 49: no rectangle inside the picture of 64 columns and 48 rows",
    ),
    "region without area": (
        body(goal={"kind": "image", "image": GOOD, "region": {"x0": 5, "y0": 0, "x1": 5, "y1": 9}}),
        "goal.region",
        "columns 5 to 5",
    ),
    "region without a corner": (
        body(goal={"kind": "image", "image": GOOD, "region": {"x0": 5, "y0": 0, "x1": 9}}),
        "goal.region.y1",
        "required",
    ),
    "region and weights": (
        body(goal={"kind": "image", "image": GOOD, "region": CORNER, "slot_weights": [1, 1, 1]}),
        "goal.region",
        "not both",
    ),
    "too few weights": (
        body(goal={"kind": "image", "image": GOOD, "slot_weights": [1, 1]}),
        "goal.slot_weights",
        "2 numbers for 3 slots",
    ),
    "negative weight": (
        body(goal={"kind": "latent", "state": [[0] * 4] * 3, "slot_weights": [1, -1, 1]}),
        "goal.slot_weights.1",
        "greater than or equal to 0",
    ),
    "no weight": (
        body(goal={"kind": "latent", "state": [[0] * 4] * 3, "slot_weights": [0, 0, 0]}),
        "goal.slot_weights",
        "all weights are zero",
    ),
    "no goals": (body(goal={"kind": "all", "goals": []}), "goal.goals", "at least 1"),
    "goals in goals": (
        body(goal={"kind": "all", "goals": [{"kind": "all", "goals": []}]}),
        "goal.goals.0",
        "'image', 'text', 'label', 'latent'",
    ),
    "wrong one of several": (
        body(goal={"kind": "all", "goals": [{"kind": "text", "text": "x"}, {"kind": "label", "labels": ["up"]}]}),
        "goal.goals.1.labels.0",
        "unknown label 'up'",
    ),
    "one of several incomplete": (
        body(goal={"kind": "all", "goals": [{"kind": "text", "text": "x"}, {"kind": "image"}]}),
        "goal.goals.1.image",
        "required",
    ),
    "too many weights of goals": (
        body(goal={"kind": "all", "goals": [{"kind": "text", "text": "x"}], "weights": [1, 2]}),
        "goal.weights",
        "2 numbers for 1 goals",
    ),
    "unknown way over steps": (body(cost={"over_steps": "last"}), "cost.over_steps", "'sum' or 'closest'"),
    "negative control": (body(cost={"control": -1}), "cost.control", "greater than or equal to 0"),
    "unknown place": (
        body(cost={"avoid": [["left"], ["up"]]}),
        "cost.avoid",
        "'up'; choose one of: left, right",
    ),
    "place without labels": (body(cost={"avoid": [[]]}), "cost.avoid.0", "at least 1"),
    "places that are labels": (body(cost={"avoid": ["left"]}), "cost.avoid.0", "array"),
    "action size": (
        body(previous_actions=[[0, 0, 0], [0, 0]]),
        "previous_actions.1",
        "2 numbers; this robot takes 3 (x, y, z)",
    ),
    "action text": (body(previous_actions=[["1", 0, 0]]), "previous_actions.0.0", "number"),
    "action huge": (body(previous_actions=[[1e300, 0, 0]]), "previous_actions", "32-bit"),
    "negative seed": (body(seed=-1), "seed", "greater than or equal to 0"),
    "huge seed": (body(seed=2**63), "seed", ""),
    "seed text": (body(seed="1"), "seed", "integer"),
    "deadline zero": (body(deadline_ms=0), "deadline_ms", "greater than 0"),
    "deadline of an hour": (body(deadline_ms=3_600_000), "deadline_ms", "less than"),
    "unknown field": (body(gaol=1), "gaol", "not permitted"),
    "unknown search field": (body(search={"rounds": 3}), "search.rounds", "not permitted"),
    "no candidates": (body(search={"candidates": 0}), "search.candidates", "greater than or equal to 1"),
    "too many elites": (body(search={"candidates": 4, "elites": 5}), "search.elites", "4 candidates"),
    "too much search": (body(search={"candidates": 4096, "iterations": 100}), "search", "at most 65536"),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_field_is_named(http: httpx.Client, name: str) -> None:
    sent, field, detail = CASES[name]
    problem = check_problem(http.post("/v1/plan", json=sent), 422)
    assert problem["errors"][0]["field"] == field
    assert detail in problem["errors"][0]["detail"]
    assert field in problem["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("place", "field"),
    [
        ('"previous_actions":[[0,%s,0]]', "previous_actions.0.1"),
        ('"deadline_ms":%s', "deadline_ms"),
        ('"goal":{"kind":"latent","state":[[%s]]}', "goal.state.0.0"),
        ('"goal":{"kind":"latent","state":[[0]],"slot_weights":[%s]}', "goal.slot_weights.0"),
        ('"cost":{"control":%s}', "cost.control"),
        ('"cost":{"avoid":[["left"]],"avoid_weight":%s}', "cost.avoid_weight"),
    ],
)
def test_nan_and_infinity_are_refused(http: httpx.Client, number: str, place: str, field: str) -> None:
    goal = "" if "goal" in place else '"goal":{"kind":"text","text":"x"},'
    content = f'{{"frames":["{GOOD}"],{goal}{place % number}}}'
    problem = check_problem(http.post("/v1/plan", content=content, headers=JSON), 422)
    assert problem["errors"][0]["field"] == field


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"x"',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"frames":["\\ud800"]}',
        b"1" * 10_000,
    ],
    ids=[
        "empty",
        "open",
        "not utf-8",
        "null",
        "list",
        "text",
        "deep list",
        "deep object",
        "lone surrogate",
        "long number",
    ],
)
def test_what_is_not_a_request_is_refused(http: httpx.Client, content: bytes) -> None:
    check_problem(http.post("/v1/plan", content=content, headers=JSON), 422)


def test_accepted_image_kinds(http: httpx.Client) -> None:
    image = Image.fromarray(picture())
    texts = [file_text(image.convert(mode), "PNG") for mode in ("RGB", "RGBA", "L", "P")]
    texts += [file_text(image.convert(mode), "JPEG") for mode in ("RGB", "L")]
    for text in texts:
        assert http.post("/v1/plan", json=body(frames=[text])).status_code == 200


def test_body_limit(http: httpx.Client) -> None:
    answer = http.post("/v1/plan", content=b" " * (33 * 2**20), headers=JSON)
    assert "at most 33554432" in check_problem(answer, 413)["detail"]
    # Nor does a body without a declared length get through.
    chunks = (b" " * 2**20 for _ in range(33))
    check_problem(http.post("/v1/plan", content=chunks, headers=JSON), 413)


@pytest.mark.parametrize(
    "content",
    [
        b'{"frames":[' + b"0," * 15_000_000 + b"0]}",
        b'{"frames":[1.' + b"3" * 30_000_000 + b"]}",
        b'{"seed":' + b"9" * 30_000_000 + b"}",
        b'{"' + b"x" * 30_000_000 + b'":1}',
        b"{" + b",".join(b'"%d":0' % i for i in range(19_000)) + b"}",
        b'{"frames":["' + b"A" * 30_000_000 + b'"]}',
    ],
    ids=["many values", "long float", "long integer", "long name", "many names", "long text"],
)
def test_huge_bodies_neither_pass_nor_stall(http: httpx.Client, content: bytes) -> None:
    started = time.process_time()  # of client and server, however busy the machine is
    check_problem(http.post("/v1/plan", content=content, headers=JSON), 422)
    assert time.process_time() - started < 5


def test_other_content_types(http: httpx.Client) -> None:
    content = json.dumps(body())
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        check_problem(http.post("/v1/plan", content=content, headers={"content-type": kind}), 415)
    charset = {"content-type": "Application/JSON; charset=utf-8"}
    assert http.post("/v1/plan", content=content, headers=charset).status_code == 200


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    assert "/v1/nothing" in check_problem(http.get("/v1/nothing"), 404)["detail"]
    check_problem(http.get("/plan"), 405)
    check_problem(http.delete("/v1/model"), 405)


def test_request_id(http: httpx.Client) -> None:
    answer = http.post("/v1/plan", json=body(), headers={"x-request-id": "robot-7:42"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "robot-7:42"
    # What could forge lines in a log is replaced.
    made = http.get("/healthz", headers={"x-request-id": "a b\tc"}).headers["x-request-id"]
    assert len(made) == 32
    assert http.get("/healthz").headers["x-request-id"] != made


def test_openapi_describes_what_is_accepted(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()
    assert {"/v1/plan", "/plan", "/v1/model", "/healthz", "/readyz", "/metrics"} == set(schema["paths"])
    models = schema["components"]["schemas"]
    described = models["PlanRequest"]["properties"]
    assert {"frames", "goal", "seed", "previous_actions", "deadline_ms", "search"} <= set(described)
    assert {"ImageGoalBody", "TextGoalBody", "LabelGoalBody", "LatentGoalBody", "Problem", "PlanResponse"} <= set(
        models
    )
    camera = CARD.camera.model_copy(update={"height": 64, "width": 64})  # of the pictures in the examples
    with serving_ready(create_app(FakePlanner(replace(CARD, camera=camera)))) as url:
        for example in models["PlanRequest"]["examples"]:
            assert httpx.post(url + "/v1/plan", json=example).status_code == 200
    text = json.dumps(schema)
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(models)
    for path in ("/", "/docs"):
        page = http.get(path)
        assert page.status_code == 200
        assert "html" in page.headers["content-type"]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just(PLAIN)
    | st.sampled_from(["image", "left"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
GOALS = st.one_of(
    st.fixed_dictionaries({"kind": st.just("image"), "image": st.just(PLAIN) | VALUES}),
    st.fixed_dictionaries({"kind": st.just("text"), "text": st.text() | VALUES}),
    st.fixed_dictionaries(
        {"kind": st.just("label"), "labels": st.lists(st.sampled_from(["left", "right", "up"])) | VALUES}
    ),
    st.fixed_dictionaries({"kind": st.just("latent"), "state": st.lists(st.lists(st.floats() | VALUES)) | VALUES}),
    st.fixed_dictionaries(
        {"kind": st.just("all"), "goals": st.lists(st.just({"kind": "text", "text": "x"}) | VALUES) | VALUES},
        optional={"weights": st.lists(st.floats() | VALUES) | VALUES},
    ),
    VALUES,
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "frames": st.lists(st.just(PLAIN), min_size=1, max_size=3) | VALUES,
        "goal": GOALS,
        "seed": st.integers(0, 600) | VALUES,
        "previous_actions": st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=4)
        | VALUES,
        "deadline_ms": st.floats(1, 100) | VALUES,
        "search": st.dictionaries(
            st.sampled_from(["candidates", "iterations", "horizon", "elites", "x"]), st.integers(0, 70)
        )
        | VALUES,
        "return_state": st.booleans() | VALUES,
        "cost": st.fixed_dictionaries(
            {},
            optional={
                "over_steps": st.sampled_from(["sum", "closest"]) | VALUES,
                "control": st.floats(0, 10) | VALUES,
                "avoid": st.lists(st.lists(st.sampled_from(["left", "up"]))) | VALUES,
            },
        )
        | VALUES,
        "other": VALUES,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=REQUESTS)
def test_no_request_breaks_the_server(http: httpx.Client, request: dict[str, Any]) -> None:
    answer = http.post("/v1/plan", content=json.dumps(request), headers=JSON)
    if answer.status_code == 200:
        assert np.isfinite(answer.json()["actions"]).all()
    else:
        assert check_problem(answer, 422)["errors"]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=200), place=st.integers(0, 10_000), image=st.booleans())
def test_no_bytes_break_the_server(http: httpx.Client, content: bytes, place: int, image: bool) -> None:
    data = base64.b64decode(GOOD) if image else json.dumps(body()).encode()
    place %= len(data)
    broken = data[:place] + content + data[place + len(content) :]
    sent = json.dumps(body(frames=[base64.b64encode(broken).decode()])).encode() if image else broken
    answer = http.post("/v1/plan", content=sent, headers=JSON)
    if answer.status_code != 200:
        check_problem(answer, 422)

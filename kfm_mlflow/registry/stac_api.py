"""The public releases as a read-only STAC API 1.0.0 under ``/kfm/stac``.

Rules kept here:

1. One collection per registered model that has public items, of the workspace that a request is
   in; who may not read a model is told that there is none.
2. Answers are GeoJSON or JSON; errors are ``{"code", "description"}`` with a status that no client
   retries.
3. Answers go on from the key of their last item, so that pages neither overlap nor leave gaps while
   releases come.

It decides nothing: :mod:`kfm_mlflow.registry.stac_items` says what is public.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import wraps
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flask import Blueprint, Response, request, url_for
from werkzeug.exceptions import HTTPException

from kfm_mlflow.canonical import canonical_bytes, parse_json
from kfm_mlflow.errors import EvidenceError, InputError
from kfm_mlflow.metadata.stac_catalog import (
    GEOJSON,
    JSON,
    REVERSION_REL,
    catalog_document,
    collection_document,
    describe_item,
    link,
)
from kfm_mlflow.metadata.stac_search import (
    SearchQuery,
    matches,
    parse_search,
    read_arguments,
    write_token,
)
from kfm_mlflow.registry.actor import may_read
from kfm_mlflow.registry.api import MAX_BODY_BYTES, registry
from kfm_mlflow.registry.stac_items import PublicItem, PublicModel, public_items
from kfm_mlflow.registry.stac_openapi import OPENAPI_TYPE, describe
from kfm_mlflow.registry.translate import answer_to
from kfm_mlflow.registry.workspaces import PARAMETER, current_workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

stac = Blueprint("kfm_stac", __name__, url_prefix="/kfm/stac")
CONFORMS_TO = (
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/ogcapi-features",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#query",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/oas30",
)
_PROXY = "api/2.0/mlflow-artifacts/artifacts"
_NOT_FOUND = 404


def _error(status: int, code: str, description: str) -> Response:
    body = canonical_bytes({"code": code, "description": description})
    return Response(body, status, mimetype=JSON)


def _answers(media_type: str) -> Callable[[Callable[..., Any]], Callable[..., Response]]:
    """Write a view's value as JSON of a media type, and errors as a STAC API does."""

    def wrap(view: Callable[..., Any]) -> Callable[..., Response]:
        @wraps(view)
        def wrapped(*args: Any, **kwargs: Any) -> Response:
            try:
                value = view(*args, **kwargs)
                data = value if isinstance(value, bytes) else canonical_bytes(value)
            except HTTPException:
                raise
            except LookupError as exc:
                return _error(_NOT_FOUND, "NotFound", str(exc.args[0] if exc.args else exc))
            except Exception as exc:  # noqa: BLE001 - a caller always gets an answer that is not retried
                told = answer_to(exc)
                code = "InvalidParameterValue" if isinstance(exc, InputError) else told.error_code
                return _error(told.get_http_status_code(), str(code), str(told.message))
            return Response(data, mimetype=media_type)

        return wrapped

    return wrap


@stac.after_request
def _secured(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-cache"
    return response


def _url(view: str, **values: Any) -> str:
    here = {PARAMETER: workspace} if (workspace := current_workspace()) else {}
    return url_for(f"kfm_stac.{view}", _external=True, **values, **here)


# -- documents -------------------------------------------------------------------------------------


def _model(name: str) -> PublicModel:
    found = public_items(registry()).model(registry(), name) if may_read(name) else None
    if found is None:
        raise LookupError(f"there is no collection {name!r}")
    return found


def _models(among: Iterable[str] | None = None) -> dict[str, PublicModel]:
    wanted = None if among is None else frozenset(among)
    return public_items(registry()).models(
        registry(), lambda name: (wanted is None or name in wanted) and may_read(name)
    )


def _public_url(item: PublicItem) -> str:
    """Return where the signed item lies in its frozen release, as clients reach it."""
    scheme, colon, rest = item.release.frozen_uri.partition(":")
    path = quote(item.path)
    if colon and scheme == "mlflow-artifacts":
        return f"{request.url_root}{_PROXY}/{rest.lstrip('/')}/{path}"
    base = item.release.frozen_uri if colon else f"file://{quote(item.release.frozen_uri)}"
    return f"{base}/{path}"


def _item_url(item: PublicItem, view: str = "item") -> str:
    return _url(view, collection_id=item.record.collection, item_id=item.record.id)


def _document(model: PublicModel, item: PublicItem) -> dict[str, Any]:
    around = model.around[item.record.version]
    collection = _url("collection", collection_id=model.name)
    links = [
        link("self", _item_url(item), GEOJSON),
        link("root", _url("landing")),
        link("parent", collection),
        link("collection", collection),
    ]
    for rel, version in (
        ("predecessor-version", around.predecessor),
        ("successor-version", around.successor),
        ("latest-version", around.latest),
    ):
        if version is not None:
            other = model.items[version]
            title = other.release.release_version
            links.append(link(rel, _item_url(other), GEOJSON, title=title))
    links += _reversion_links(model, item)
    original = {
        **link("via", _item_url(item, "original"), GEOJSON),
        "title": f"The item as it was signed, {item.path} of release {item.release.release_id}",
        "file:checksum": f"1220{item.checksum.removeprefix('sha256:')}",
        "file:size": item.size_bytes,
    }
    return describe_item(
        item.item, model.name, signed_url=_public_url(item), original=original, links=links
    )


def _reversion_links(model: PublicModel, item: PublicItem) -> list[dict[str, Any]]:
    """Return the link of an item that was taken back, or came back, to the decision.

    The item itself stays as it was signed. Why is told in fixed words; the reason, which is free
    text, stays in the ledger.
    """
    found = model.reversion
    if found is None or item.record.version not in {found.rollback_of, found.restored}:
        return []
    restored = None if found.restored is None else model.items.get(found.restored)
    return [
        link(
            REVERSION_REL,
            f"{request.url_root}kfm/ledger/{found.row}",
            "text/html",
            **{
                "title": f"Row {found.row} of the ledger: v{found.rollback_of} was taken back",
                "kfm:row": found.row,
                "kfm:at": found.at,
                "kfm:rollback_of": found.rollback_of,
                "kfm:restored": found.restored,
                "kfm:restored_hash": restored.release.release_id if restored else None,
                "kfm:cause": found.cause,
            },
        )
    ]


def _collection(model: PublicModel) -> dict[str, Any]:
    own = _url("collection", collection_id=model.name)
    root = _url("landing")
    links = [
        link("self", own),
        link("root", root),
        link("parent", root),
        link("items", _url("items", collection_id=model.name), GEOJSON),
    ]
    return collection_document(model.name, [item.record for item in model.items.values()], links)


# -- views -----------------------------------------------------------------------------------------


@stac.get("/")
@_answers(JSON)
def landing() -> Any:
    """Return the landing page: a catalog with what the API can do."""
    root, search_url = _url("landing"), _url("search")
    links = [
        link("self", root),
        link("root", root),
        link("conformance", _url("conformance")),
        link("data", _url("collections")),
        link("search", search_url, GEOJSON, method="GET"),
        link("search", search_url, GEOJSON, method="POST"),
        link("service-desc", _url("service_desc"), OPENAPI_TYPE),
    ]
    links += [
        link("child", _url("collection", collection_id=name), title=name) for name in _models()
    ]
    return catalog_document(links, conformsTo=list(CONFORMS_TO))


@stac.get("/conformance")
@_answers(JSON)
def conformance() -> Any:
    """Return what the API conforms to."""
    return {"conformsTo": list(CONFORMS_TO)}


@stac.get("/api")
@_answers(OPENAPI_TYPE)
def service_desc() -> Any:
    """Return the API's description."""
    return describe(_url("landing").rstrip("/"))


@stac.get("/collections")
@_answers(JSON)
def collections() -> Any:
    """Return every collection that who asks may read."""
    own = _url("collections")
    return {
        "collections": [_collection(model) for model in _models().values()],
        "links": [link("self", own), link("root", _url("landing"))],
    }


@stac.get("/collections/<collection_id>")
@_answers(JSON)
def collection(collection_id: str) -> Any:
    """Return the collection of a registered model."""
    return _collection(_model(collection_id))


@stac.get("/collections/<collection_id>/items/<path:item_id>")
@_answers(GEOJSON)
def item(collection_id: str, item_id: str) -> Any:
    """Return an item, with links to the releases before and after."""
    model = _model(collection_id)
    return _document(model, _found(model, item_id))


@stac.get("/collections/<collection_id>/signed/<path:item_id>")
@_answers(GEOJSON)
def original(collection_id: str, item_id: str) -> Any:
    """Return an item byte for byte as it was signed."""
    return _found(_model(collection_id), item_id).data


def _found(model: PublicModel, item_id: str) -> PublicItem:
    found = model.of_id(item_id)
    if found is None:
        raise LookupError(f"collection {model.name!r} has no item {item_id!r}")
    return found


@stac.get("/collections/<collection_id>/items")
@_answers(GEOJSON)
def items(collection_id: str) -> Any:
    """Return the items of a collection, page by page."""
    asked = read_arguments(_arguments())
    model = _model(collection_id)
    query = parse_search(asked)
    own = _url("items", collection_id=collection_id)
    more = [link("collection", _url("collection", collection_id=collection_id))]
    return _page({collection_id: model}, query, lambda token: _get_next(own, token), own, more)


@stac.get("/search")
@_answers(GEOJSON)
def search() -> Any:
    """Return the items that a question in the address asks for."""
    query = parse_search(read_arguments(_arguments()))
    own = _url("search")
    return _page(_models(query.collections), query, lambda token: _get_next(own, token), own, [])


@stac.post("/search")
@_answers(GEOJSON)
def search_posted() -> Any:
    """Return the items that a question in JSON asks for."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise InputError(f"more than {MAX_BODY_BYTES} bytes", where="request")
    try:
        body = parse_json(request.get_data() or b"{}", where="request")
    except EvidenceError as exc:
        raise InputError(str(exc)) from exc
    if not isinstance(body, dict):
        raise InputError("must be a JSON object", where="request")
    query, own = parse_search(body), _url("search")

    def going_on(token: str) -> dict[str, Any]:
        return link("next", own, GEOJSON, method="POST", body={**body, "token": token})

    return _page(_models(query.collections), query, going_on, own, [])


def _arguments() -> dict[str, str]:
    doubled = [key for key, values in request.args.lists() if len(values) > 1]
    if doubled:
        raise InputError("is asked for twice", where=doubled[0][:80])
    return {key: value for key, value in request.args.items() if key != PARAMETER}


def _get_next(own: str, token: str) -> dict[str, Any]:
    asked = {**_arguments(), "token": token}
    pairs = "&".join(f"{quote(key)}={quote(value, safe='')}" for key, value in asked.items())
    return link("next", f"{own}{'&' if '?' in own else '?'}{pairs}", GEOJSON, method="GET")


def _page(
    models: Mapping[str, PublicModel],
    query: SearchQuery,
    going_on: Callable[[str], dict[str, Any]],
    own: str,
    more_links: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return one page of what is asked for, in order of models and versions."""
    found = [
        (model, item)
        for model in models.values()
        for item in model.items.values()
        if matches(item.record, query)
    ]
    begin = 0
    if query.after is not None:
        begin = bisect_right(found, query.after, key=lambda pair: pair[1].record.key)
    shown = list(islice(found, begin, begin + query.limit))
    links = [link("self", own, GEOJSON), link("root", _url("landing")), *more_links]
    if begin + query.limit < len(found):
        links.append(going_on(write_token(shown[-1][1].record)))
    return {
        "type": "FeatureCollection",
        "features": [_document(model, item) for model, item in shown],
        "numberMatched": len(found),
        "numberReturned": len(shown),
        "links": links,
    }

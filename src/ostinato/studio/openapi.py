"""What /v1 takes and gives, as OpenAPI 3.1: the page docs.html shows it, and tools read it."""

from typing import Any

from ostinato import __version__
from ostinato.studio.engine import Limits

FILE = {"200": {"description": "The file", "content": {"audio/wav": {}, "audio/flac": {}, "audio/ogg": {}}}}


def describe(limits: Limits, models: list[str]) -> dict[str, Any]:
    number = {"type": "number"}
    sampling = {"guidance": number, "temperature": number, "top_k": {"type": "integer"}, "top_p": number}
    sampling["negative"] = {"type": "string", "description": "What guidance leads away from."}
    asked: dict[str, Any] = {
        "prompt": {
            "type": "string",
            "maxLength": limits.prompt,
            "description": "What to play; required unless there is a recipe.",
        },
        "seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": limits.seconds},
        "seed": {"type": "integer", "minimum": 0, "default": 0},
        "model": {"type": "string", "enum": models, "default": models[0]},
        "sampling": {"type": "object", "properties": sampling, "description": "Default: the model's own."},
        "steps": {"type": "integer", "description": "Denoising steps, for models of two stages."},
        "before": {"type": "string", "description": "What to go on from, as /v1/audio/read gives it."},
        "recipe": {"type": "object", "description": "In place of all else: a take's recipe, to make it again."},
    }
    either: dict[str, Any] = {"type": "object", "anyOf": [{"required": ["prompt"]}, {"required": ["recipe"]}]}
    body = body_of(either | {"properties": asked})
    clip = body_of(either | {"properties": asked | {"seconds": asked["seconds"] | {"default": 10}, "format": FORMAT}})
    query = [parameter(name, asked[name], name == "prompt") for name in ("prompt", "seconds", "seed", "model")]
    wav = answers({"200": {"description": "A WAV as it is made", "content": {"audio/wav": {}}}})
    listed = {"200": {"description": "models, limits", "content": {"application/json": {}}}}
    read = answers({"200": {"description": "recipe (or null), title, before", "content": {"application/json": {}}}})
    stream = "A WAV as it is made; without seconds it has no end. Hang up to stop it."
    paths = {
        "/v1/models": {"get": {"summary": "The models, and what the server allows.", "responses": answers(listed)}},
        "/v1/audio/generations": {
            "post": {"summary": "A clip, when it is whole.", "requestBody": clip, "responses": answers(FILE)}
        },
        "/v1/audio/stream": {
            "get": {"summary": stream, "parameters": query, "responses": wav},
            "post": {"summary": stream, "requestBody": body, "responses": wav},
        },
        "/v1/audio/read": {
            "post": {
                "summary": f"An audio file, at most {limits.upload // 2**20} MiB: the recipe in its tags, and what to "
                "go on from.",
                "parameters": [parameter("name", {"type": "string", "description": "The file's name."}, True)],
                "requestBody": {"content": {"application/octet-stream": {}}},
                "responses": read,
            }
        },
        "/v1/audio/takes/{take}.{format}": {
            "get": {
                "summary": "What was played over /v1/play, so far.",
                "parameters": [
                    parameter("take", {"type": "string"}, True, "path"),
                    parameter("format", FORMAT, True, "path"),
                ],
                "responses": answers(FILE),
            }
        },
    }
    about = 'Text to music. Refusals are JSON: {"error": "what was wrong, in words"}.'
    return {
        "openapi": "3.1.0",
        "info": {"title": "Ostinato", "version": __version__, "description": about},
        "paths": paths,
    }


FORMAT = {"type": "string", "enum": ["wav", "flac", "ogg"], "default": "wav"}


def body_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def parameter(name: str, schema: dict[str, Any], required: bool, place: str = "query") -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema}


def answers(good: dict[str, Any]) -> dict[str, Any]:
    return good | {"default": {"description": "Refused", "content": {"application/json": {}}}}

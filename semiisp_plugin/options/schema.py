"""JSON schemas of option files, for completion, descriptions and warnings in editors.

They are made from the structures and from what is registered. They are looser than the checks of the program: nothing
is required, since a file may extend another; a ``type`` that is not listed is accepted, since users register their
own; and of models that are not ours, only the keys that they share are known.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from semiisp_plugin.options import basicsr_structures as basicsr
from semiisp_plugin.options import structures
from semiisp_plugin.options.parts import OUR_DATASETS, OUR_MODELS
from semiisp_plugin.options.schedules import schedulers
from semiisp_plugin.options.sections import names_in, reads_kwargs, type_hints

DRAFT = "http://json-schema.org/draft-07/schema#"
_OPTIMISERS = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")
_ONLINE = "OnlineSemiSupervisedDataset"
_STRUCTURES: tuple[type[msgspec.Struct], ...] = (
    structures.Options,
    structures.Dataset,
    structures.OnlineDataset,
    basicsr.BasicSROptions,
    basicsr.DatasetKeys,
    basicsr.OptimiserKeys,
    basicsr.SchedulerKeys,
    basicsr.LossKeys,
    basicsr.MetricKeys,
)
Schema = dict[str, Any]


def option_schema() -> Schema:
    """Of the files of ``basicsr train`` and ``basicsr test``."""
    from semiisp_plugin.toolbox import (
        ARCH_REGISTRY,
        DATASET_REGISTRY,
        FILTER_REGISTRY,
        LOSS_REGISTRY,
        METRIC_REGISTRY,
        MODEL_REGISTRY,
    )

    definitions = definitions_of(_STRUCTURES)
    known = {
        name: sorted(_own(names_in(registry)))
        for name, registry in (
            ("data sets", DATASET_REGISTRY),
            ("models", MODEL_REGISTRY),
        )
    }
    definitions["Network"] = _called(ARCH_REGISTRY, {}, ())
    definitions["Loss"] = _called(LOSS_REGISTRY, definitions.pop("LossKeys")["properties"], ())
    definitions["Metric"] = _called(METRIC_REGISTRY, definitions.pop("MetricKeys")["properties"], ("img", "img2"))
    definitions["Optimiser"] = _suggesting(definitions.pop("OptimiserKeys"), _OPTIMISERS)
    definitions["Scheduler"] = _suggesting(definitions.pop("SchedulerKeys"), schedulers(ours=True))
    definitions["Filter"] = _filters(definitions["Filter"], _own(names_in(FILTER_REGISTRY)))
    definitions["DataSet"] = _by_type(
        known["data sets"],
        {name: {"$ref": f"#/definitions/{'OnlineDataset' if name == _ONLINE else 'Dataset'}"} for name in OUR_DATASETS},
        otherwise={"$ref": "#/definitions/DatasetKeys"},
    )
    for name in ("Options", "BasicSROptions"):
        options = definitions[name]["properties"]
        _replace(options, "datasets", {"type": "object", "additionalProperties": {"$ref": "#/definitions/DataSet"}})
        options["model_type"] = {**options["model_type"], **_suggestions(known["models"])}
        options["model_type"].pop("type", None)
    ours = definitions["Options"]["properties"]
    for key in ("network_g", "network_global"):
        _replace(ours, key, {"$ref": "#/definitions/Network"})
    train = definitions["Train"]["properties"]
    for key, part in {"optim_g": "Optimiser", "scheduler": "Scheduler"}.items():
        _replace(train, key, {"$ref": f"#/definitions/{part}"})
    for key in ("pixel_opt", "perceptual_opt", "ssim_opt"):
        _replace(train, key, {"$ref": "#/definitions/Loss"})
    definitions["BasicSROptions"]["patternProperties"] = {"^network_": {"$ref": "#/definitions/Network"}}
    definitions["TrainKeys"]["patternProperties"] = {"^optim_": {"$ref": "#/definitions/Optimiser"}}
    _replace(definitions["TrainKeys"]["properties"], "scheduler", {"$ref": "#/definitions/Scheduler"})
    for name in ("Val", "ValKeys"):
        metrics = {"type": ["object", "null"], "additionalProperties": {"$ref": "#/definitions/Metric"}}
        _replace(definitions[name]["properties"], "metrics", metrics)
    return {
        "$schema": DRAFT,
        "title": "Option file of basicsr train and basicsr test",
        "type": "object",
        "if": {"properties": {"model_type": {"enum": list(OUR_MODELS)}}, "required": ["model_type"]},
        "then": {"$ref": "#/definitions/Options"},
        "else": {"$ref": "#/definitions/BasicSROptions"},
        "definitions": dict(sorted(definitions.items())),
    }


def _filters(common: Schema, functions: dict[str, Callable[..., Any]]) -> Schema:
    """The section ``train: filter``: without a ``type`` it is a ``threshold``; of types not listed any key may be."""
    schema = _suggesting(common, sorted(functions))
    cases = []
    for name, function in sorted(functions.items()):
        options: dict[str, Schema] = {}
        for key, kind in _parameters(function, (*list(inspect.signature(function).parameters)[:2], "reference")):
            options[key] = {"anyOf": [kind, *([{"const": "auto"}] if key == "beta" else [])]}
            own = schema["properties"].setdefault(key, {})
            own["description"] = ", ".join(filter(None, [own.get("description"), f"of `{name}`"]))
        properties = {**dict.fromkeys(common["properties"], True), **options}
        condition: Schema = {"properties": {"type": {"const": name}}}
        if name != "threshold":
            condition["required"] = ["type"]
        cases.append({"if": condition, "then": {"properties": properties, "additionalProperties": False}})
    return {**schema, "allOf": cases}


def pseudo_schema() -> Schema:
    """Of the files of ``basicsr pseudo``."""
    whole = definitions_of((structures.PseudoOptions,)).pop("PseudoOptions")
    return {"$schema": DRAFT, **whole, "title": "Option file of basicsr pseudo"}


def as_text(schema: Schema) -> str:
    """A schema as it is written to a file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def definitions_of(types: Iterable[type[msgspec.Struct]]) -> dict[str, Schema]:
    """JSON schemas of structures, by name, and of the structures in them."""
    _, components = msgspec.json.schema_components(types, ref_template="#/definitions/{name}")
    definitions: dict[str, Schema] = {}
    for name, schema in components.items():
        definitions[name] = _plain({k: v for k, v in schema.items() if k not in ("required", "title")})
        definitions[name]["type"] = ["object", "null"]  # `section: ~` takes one away from a file that is extended
    return definitions


def _plain(schema: Any) -> Any:
    """A schema in the words of draft 7, which more editors understand than newer ones.

    "This section or nothing" becomes the section, which may be nothing itself: editors then mark the key that is wrong,
    and not the section as a whole.
    """
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _plain(value) for key, value in schema.items()}
    if "prefixItems" in result:
        result["items"] = result.pop("prefixItems")
    choices = [c for c in result.get("anyOf", ()) if c != {"type": "null"}]
    if len(choices) == 1 and "$ref" in choices[0]:
        del result["anyOf"]
        result["allOf"] = choices
    return result


def _own(found: dict[str, Any]) -> dict[str, Any]:
    """What BasicSR and the plugin register under their plain names; not what a test or a user's module adds."""
    return {
        name: value
        for name, value in found.items()
        if not name.endswith("_basicsr") and value.__module__.split(".")[0] in ("basicsr", __name__.split(".")[0])
    }


def _suggestions(names: Iterable[str]) -> Schema:
    return {"anyOf": [{"enum": list(names)}, {"type": "string"}]}


def _suggesting(schema: Schema, names: Iterable[str]) -> Schema:
    """A section's schema, nullable, with names of types that are offered."""
    properties = {**schema["properties"]}
    described = {k: v for k, v in properties.get("type", {}).items() if k in ("description", "default")}
    properties["type"] = {**described, **_suggestions(names)}
    return {**schema, "type": ["object", "null"], "properties": properties}


def _replace(properties: dict[str, Schema], key: str, schema: Schema) -> None:
    """Put a schema in the place of a looser one, whose description stays."""
    description = properties.get(key, {}).get("description")
    properties[key] = {**({"description": description} if description else {}), "allOf": [schema]}


def _by_type(names: list[str], schemas: dict[str, Schema], otherwise: Schema | None = None) -> Schema:
    """A section whose other keys depend on its ``type``."""
    cases: list[Schema] = [
        {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": schema}
        for name, schema in schemas.items()
    ]
    if otherwise is not None:
        condition = {"properties": {"type": {"not": {"enum": list(schemas)}}}, "required": ["type"]}
        cases.append({"if": condition, "then": otherwise})
    return {"type": ["object", "null"], "properties": {"type": _suggestions(names)}, "allOf": cases}


def _called(registry: Any, common: dict[str, Schema], given: tuple[str, ...]) -> Schema:
    """A section whose keys are the parameters of what its ``type`` names.

    Args:
        registry: Where ``type`` is looked up.
        common: Schemas of keys that are known better than by a default.
        given: Parameters that are no options.
    """
    targets = dict(sorted(_own(names_in(registry)).items()))
    schemas: dict[str, Schema] = {}
    for name, target in targets.items():
        properties: dict[str, Schema] = {"type": {}}
        for key, schema in _parameters(target, given):
            properties[key] = common.get(key, schema)
        variable = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(target).parameters.values())
        if variable and "better" in common:
            properties["better"] = common["better"]
        schemas[name] = {"properties": properties}
        if not (variable and reads_kwargs(target)):
            schemas[name]["additionalProperties"] = False
    return _by_type(list(targets), schemas)


def _parameters(target: Callable[..., Any], given: tuple[str, ...]) -> list[tuple[str, Schema]]:
    hints, found = type_hints(target), []
    for name, parameter in inspect.signature(target).parameters.items():
        if name in ("self", *given) or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        schema: Schema = _plain(msgspec.json.schema(hints[name])) if name in hints else {}
        default = parameter.default
        if default is None and schema:
            schema = {"anyOf": [schema, {"type": "null"}]}
        if isinstance(default, (bool, int, float, str, list, tuple)):
            schema["default"] = list(default) if isinstance(default, tuple) else default
        found.append((name, schema))
    return found

"""Step caching (Ma et al. 2023, DeepCache) added to a bundle: a shallow UNet, and ControlNets as short as it needs.

All new graphs are cut out of the bundle's own (`graph.step_cache`), so that nothing is traced and no weight changes.
They are kept only if they compute the same as the whole graphs, bit for bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from latentrt.bundle.catalog import folder_of
from latentrt.bundle.folder import open_bundle, record_files, save_manifest
from latentrt.bundle.manifest import Component, Manifest
from latentrt.bundle.manifest_json import named_files
from latentrt.bundle.sources import DEEP_FEATURES, FEATURES, SHALLOW_ROLES
from latentrt.errors import FidelityError
from latentrt.storage.atomic import new_folder
from latentrt.tensors import Array, TensorSpec, shape_of
from latentrt_export.graph.activations import with_activations
from latentrt_export.graph.emulation import emulated_session
from latentrt_export.graph.four_bits import eight_bit_bytes
from latentrt_export.graph.save import save_graph
from latentrt_export.graph.step_cache import channels_read, give_features, make_shallow, take_only
from latentrt_export.lora_table.table import with_table

# (batch, height, width) in latents: even sides, sides that every level rounds, and an odd batch.
PROBES = ((2, 16, 24), (1, 9, 13), (3, 8, 12))

Arrays = Mapping[str, Array]
Progress = Callable[[str], None]


def add_step_cache(source: str | Path, out: Path, boundary: int, progress: Progress = lambda line: None) -> Manifest:
    """Writes the bundle `out`, which is `source` with step caching, and returns its manifest.

    source: a bundle's folder or a built-in model's name. boundary: as in `with_step_cache`. `out` appears whole or not
    at all. Raises BundleError for a bundle without a denoiser; RequestError for a boundary that the denoiser does not
    have; FidelityError for a graph that does not compute the same; OutputError.
    """
    bundle = open_bundle(folder_of(source))
    with new_folder(out) as folder:
        progress("copying")
        for file in bundle.manifest.files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path(file), folder / file)
        # The table of weights names places in the graphs, which move.
        manifest = with_table(folder, with_step_cache(folder, bundle.manifest, boundary, progress))
        manifest = replace(manifest, files=record_files(folder, named_files(manifest)))
        save_manifest(folder, manifest)
    return manifest


def with_step_cache(
    folder: Path, manifest: Manifest, boundary: int, progress: Progress = lambda line: None
) -> Manifest:
    """Rewrites the UNet in `folder` with its deep features, and writes the shallow graphs; returns the new manifest.

    boundary: the number of concatenations with skips that the shallow UNet keeps; 1 is the fastest. The manifest's
    `files` is not changed; step caching that it has is replaced, and its presets are dropped. Raises RequestError for a
    boundary that the UNet does not have, FidelityError for a graph that does not compute the same.
    """
    manifest = without_step_cache(manifest)
    cutter = Cutter(folder, manifest, progress)
    denoiser, shallow = cutter.denoiser(boundary)
    shortened = {name: cutter.controlnet(name, shallow) for name in manifest.of_role("controlnet")}
    components: dict[str, Component] = {}
    for name, component in manifest.components.items():
        components[name] = denoiser if name == manifest.denoiser else component
        if name in shortened:
            components[shallow_name(name)] = shortened[name]
        if name == manifest.denoiser:
            components[shallow_name(name)] = shallow
    return with_activations(folder, replace(manifest, components=components))


def without_step_cache(manifest: Manifest) -> Manifest:
    """The manifest without what step caching adds to it, and without presets, which were measured with that."""
    components = {name: one for name, one in manifest.components.items() if one.role not in SHALLOW_ROLES}
    denoiser = components[manifest.denoiser]
    outputs = tuple(spec for spec in denoiser.outputs if spec.name != DEEP_FEATURES)
    components[manifest.denoiser] = replace(denoiser, outputs=outputs, activations=())
    return replace(manifest, components=components, presets={})


def cut_again(folder: Path, manifest: Manifest, progress: Progress = lambda line: None) -> Manifest:
    """Cuts the shallow UNet out of the UNet's graph in `folder` anew, at the same boundary; returns the manifest.

    manifest: of a bundle with step caching, whose UNet is now another graph, such as a quantized one, without deep
    features among its outputs. Short ControlNets stay: the shallow UNet reads the same of them. The manifest's `files`
    is not changed. Raises FidelityError for a graph that does not compute the same.
    """
    shallow, denoiser = manifest.shallow, manifest.denoiser
    assert shallow is not None
    cutter = Cutter(folder, without_step_cache(manifest), progress)
    full, cut = cutter.denoiser(manifest.components[shallow].boundary)
    return with_activations(folder, replace(manifest, components={**manifest.components, denoiser: full, shallow: cut}))


def shallow_name(component: str) -> str:
    """The name of the component that is cut out of this one."""
    return f"{component}_shallow"


@dataclass(frozen=True)
class Cutter:
    """Cuts graphs in a folder and compares them with the whole ones. manifest: of the bundle before."""

    folder: Path
    manifest: Manifest
    progress: Progress

    def denoiser(self, boundary: int) -> tuple[Component, Component]:
        """Writes the UNet with its deep features, and the shallow one; returns both components."""
        name = self.manifest.denoiser
        whole = self.manifest.components[name]
        self.progress(f"{name}: cutting at boundary {boundary}")
        model, probes = ir.load(self.folder / whole.file), self.probes(whole)
        shape = give_features(model, boundary)
        references = self.outputs(whole, probes)
        ir.save(model, self.folder / whole.file)  # weights that lie in a second file stay there
        features = TensorSpec(DEEP_FEATURES, dtype_of(model.graph.outputs[-1]), shape)
        full = replace(whole, outputs=(*whole.outputs, features))
        shallow = self.written(shallow_name(name), make_shallow(model), whole)
        shallow = replace(
            shallow,
            role="shallow_denoiser",
            inputs=(*shallow.inputs, features),
            sources={**shallow.sources, DEEP_FEATURES: FEATURES},
            boundary=boundary,
        )
        found = self.outputs(full, probes)
        check_same(name, found, references)
        fed = [{**feeds, **made} for feeds, made in zip(probes, found, strict=True)]
        check_same(shallow_name(name), self.outputs(shallow, fed), references)
        return full, shallow

    def controlnet(self, name: str, shallow: Component) -> Component:
        """Writes a ControlNet that makes only what the shallow UNet reads; returns its component."""
        whole = self.manifest.components[name]
        self.progress(f"{name}: cutting")
        reader, taken = ir.load(self.folder / shallow.file), {spec.name for spec in shallow.inputs}
        channels = {spec.name: channels_read(reader, spec.name) for spec in whole.outputs if spec.name in taken}
        model = take_only(ir.load(self.folder / whole.file), channels)
        short = replace(self.written(shallow_name(name), model, whole), role="shallow_controlnet")
        probes = self.probes(whole)
        found, references = (
            [{key: made[key][:, :count] for key, count in channels.items()} for made in self.outputs(one, probes)]
            for one in (short, whole)
        )
        check_same(shallow_name(name), found, references)
        return short

    def written(self, name: str, model: ir.Model, whole: Component) -> Component:
        """Writes a graph that was cut out of a component's; returns its component, the rest of the whole one."""
        kept = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
        return replace(
            whole,
            file=f"{name}.onnx",
            data=save_graph(model, self.folder, name),
            inputs=tuple(spec for spec in whole.inputs if spec.name in kept),
            outputs=tuple(spec for spec in whole.outputs if spec.name in kept),
            sources={key: source for key, source in whole.sources.items() if key in kept},
            activations=(),
            eight_bit_bytes=eight_bit_bytes(model, whole.precision),
        )

    def probes(self, component: Component) -> list[Arrays]:
        """Random inputs of a component, in several sizes."""
        random, multiple = np.random.default_rng(0), self.manifest.latents.multiple
        found: list[Arrays] = []
        for batch, *sides in PROBES:
            height, width = (-(-side // multiple) * multiple for side in sides)
            sizes = self.manifest.sizes() | {"batch": batch, "height": height, "width": width}
            shapes = {spec: shape_of(spec, sizes) for spec in component.inputs}
            found.append(
                {spec.name: random.standard_normal(shape).astype(spec.dtype) for spec, shape in shapes.items()}
            )
        return found

    def outputs(self, component: Component, probes: Sequence[Arrays]) -> list[Arrays]:
        """The outputs of a component for each probe. probes: its inputs, and others."""
        session, names = emulated_session(self.folder / component.file), [spec.name for spec in component.outputs]
        inputs = [{spec.name: feeds[spec.name] for spec in component.inputs} for feeds in probes]
        return [dict(zip(names, session.run(names, feeds), strict=True)) for feeds in inputs]


def check_same(name: str, got: Sequence[Arrays], expected: Sequence[Arrays]) -> None:
    """Raises FidelityError unless a graph makes what the whole one makes, of every probe, bit for bit."""
    for made, references in zip(got, expected, strict=True):
        for output, reference in references.items():
            if made[output].tobytes() == reference.tobytes():
                continue
            error = np.abs(made[output].astype(np.float64) - reference.astype(np.float64)).max()
            raise FidelityError(
                f"{name}: got another {output} than the whole graph's, by up to {error:.1e}, expected the same bit for "
                "bit; nothing was written. Leave step caching out, or try another boundary"
            )


def dtype_of(value: ir.Value) -> str:
    """The type of a value, as specs name it."""
    assert value.dtype is not None
    return str(value.dtype.numpy())

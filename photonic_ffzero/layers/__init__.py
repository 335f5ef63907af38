"""From fields to tapped values: meshes, dense layers, convolutions, and blocks of them."""

from photonic_ffzero.layers.activations import ACTIVATIONS, Activation
from photonic_ffzero.layers.base import Layer
from photonic_ffzero.layers.blocks import Block, NoiseSource, Stage
from photonic_ffzero.layers.conv import Conv, ConvParams
from photonic_ffzero.layers.dense import Dense, DenseParams
from photonic_ffzero.layers.mixer import Head, HeadParams, Mixer, MixerParams, Pooled, StemParams
from photonic_ffzero.layers.photonic import (
    Modulated,
    ModulatedPhases,
    PhaseLayer,
    Photonic,
    fabricated_mesh,
)

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Block",
    "Conv",
    "ConvParams",
    "Dense",
    "DenseParams",
    "Head",
    "HeadParams",
    "Layer",
    "Mixer",
    "MixerParams",
    "Modulated",
    "ModulatedPhases",
    "NoiseSource",
    "PhaseLayer",
    "Photonic",
    "Pooled",
    "Stage",
    "StemParams",
    "fabricated_mesh",
]

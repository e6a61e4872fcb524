"""Architectures of ``diffusers``, small and with random weights, for ``bench_reach``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.build import Build, Only, random_inputs

_TIME = torch.tensor([3, 5])
_HEADS: Mapping[str, Any] = {"num_attention_heads": 4, "attention_head_dim": 64, "num_layers": 2}
_LEVELS: Mapping[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}


def diffusers_builds() -> Iterator[Build]:
    """Networks that denoise, with convolutions or transformers, and autoencoders."""
    for name, kind, options, inputs in (*_UNETS, *_TRANSFORMERS, *_AUTOENCODERS):
        yield Build(f"diffusers/{name}", "diffusers", _model(kind, options), random_inputs(**inputs))


def _model(kind: str, options: Mapping[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model: nn.Module = getattr(importlib.import_module("diffusers"), kind)(**options)
        return Only(model, "sample")

    return build


Row = tuple[str, str, Mapping[str, Any], Mapping[str, Any]]
"""A name, a class, its options, and its inputs as for ``random_inputs``."""

_LATENT: Mapping[str, Any] = {"sample": (2, 4, 16, 16), "timestep": _TIME}
_CLIP: Mapping[str, Any] = {"sample": (1, 4, 4, 16, 16), "timestep": _TIME[:1], "encoder_hidden_states": (1, 7, 32)}
_UNETS: tuple[Row, ...] = (
    (
        *("unet", "UNet2DModel"),
        {**_LEVELS, "sample_size": 16, "down_block_types": ("DownBlock2D", "AttnDownBlock2D")}
        | {"up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "in_channels": 4, "out_channels": 4},
        _LATENT,
    ),
    (
        *("unet_condition", "UNet2DConditionModel"),
        {**_LEVELS, "cross_attention_dim": 32, "attention_head_dim": 8}
        | {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
        | {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
        {**_LATENT, "encoder_hidden_states": (2, 7, 32)},
    ),
    (
        *("unet_sdxl", "UNet2DConditionModel"),
        {**_LEVELS, "cross_attention_dim": 32, "attention_head_dim": (4, 8), "use_linear_projection": True}
        | {"transformer_layers_per_block": (1, 2), "addition_embed_type": "text_time", "addition_time_embed_dim": 8}
        | {"projection_class_embeddings_input_dim": 80, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
        | {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
        {**_LATENT, "encoder_hidden_states": (2, 7, 32)}
        | {"added_cond_kwargs": {"text_embeds": torch.ones(2, 32), "time_ids": torch.ones(2, 6)}},
    ),
    (
        *("unet_3d", "UNet3DConditionModel"),
        {**_LEVELS, "cross_attention_dim": 32, "attention_head_dim": 8}
        | {"down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D")}
        | {"up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D")},
        _CLIP,
    ),
    (
        *("unet_motion", "UNetMotionModel"),
        {**_LEVELS, "cross_attention_dim": 32, "num_attention_heads": 4, "motion_num_attention_heads": 4}
        | {"down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion")}
        | {"up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion")},
        {**_CLIP, "encoder_hidden_states": (4, 7, 32)},
    ),
    (
        *("unet_spatio_temporal", "UNetSpatioTemporalConditionModel"),
        {"block_out_channels": (128, 256), "layers_per_block": 1, "cross_attention_dim": 32}
        | {"num_attention_heads": (4, 8), "projection_class_embeddings_input_dim": 24, "addition_time_embed_dim": 8}
        | {"down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal")}
        | {"up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")},
        {"sample": (2, 2, 8, 16, 16), "timestep": _TIME, "encoder_hidden_states": (2, 1, 32)}
        | {"added_time_ids": torch.ones(2, 3)},
    ),
    (
        *("unet_1d", "UNet1DModel"),
        {"sample_size": 64, "block_out_channels": (32, 32, 64), "extra_in_channels": 64},
        {"sample": (2, 2, 64), "timestep": _TIME},
    ),
    (
        *("stable_cascade", "StableCascadeUNet"),
        {"block_out_channels": (32, 64), "num_attention_heads": (4, 4), "conditioning_dim": 32}
        | {"down_num_layers_per_block": (1, 1), "up_num_layers_per_block": (1, 1)}
        | {"clip_text_pooled_in_channels": 32, "in_channels": 4, "out_channels": 4},
        {"sample": (2, 4, 16, 16), "timestep_ratio": torch.tensor([0.3, 0.5]), "clip_text_pooled": (2, 1, 32)},
    ),
    (
        *("uvit", "UVit2DModel"),
        {"hidden_size": 64, "cond_embed_dim": 32, "micro_cond_encode_dim": 8, "micro_cond_embed_dim": 40}
        | {"encoder_hidden_size": 32, "vocab_size": 100, "codebook_size": 96, "in_channels": 32}
        | {"block_out_channels": 32, "num_res_blocks": 1, "block_num_heads": 4, "num_hidden_layers": 2}
        | {"num_attention_heads": 4, "intermediate_size": 128, "sample_size": 8},
        {"input_ids": [96, 2, 8, 8], "encoder_hidden_states": (2, 7, 32), "pooled_text_emb": (2, 32)}
        | {"micro_conds": torch.ones(2, 5)},
    ),
)

_TEXT: Mapping[str, Any] = {"encoder_hidden_states": (2, 7, 32), "timestep": _TIME}
_FILM: Mapping[str, Any] = {**_TEXT, "hidden_states": (2, 4, 2, 8, 8)}
_TRANSFORMERS: tuple[Row, ...] = (
    (
        *("dit", "DiTTransformer2DModel"),
        {**_HEADS, "sample_size": 8, "in_channels": 4, "num_embeds_ada_norm": 100, "norm_num_groups": 4},
        {"hidden_states": (2, 4, 8, 8), "timestep": _TIME, "class_labels": torch.tensor([1, 2])},
    ),
    (
        *("pixart", "PixArtTransformer2DModel"),
        {**_HEADS, "sample_size": 8, "in_channels": 4, "cross_attention_dim": 256, "caption_channels": 32}
        | {"use_additional_conditions": False},
        {**_TEXT, "hidden_states": (2, 4, 8, 8), "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
    ),
    (
        *("sd3", "SD3Transformer2DModel"),
        {**_HEADS, "sample_size": 8, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 32}
        | {"caption_projection_dim": 256, "pooled_projection_dim": 32, "pos_embed_max_size": 8},
        {**_TEXT, "hidden_states": (2, 4, 8, 8), "pooled_projections": (2, 32)},
    ),
    (
        *("flux", "FluxTransformer2DModel"),
        {**_HEADS, "in_channels": 16, "num_single_layers": 2, "joint_attention_dim": 32}
        | {"pooled_projection_dim": 32, "axes_dims_rope": (16, 24, 24)},
        {**_TEXT, "hidden_states": (2, 16, 16), "pooled_projections": (2, 32), "timestep": torch.tensor([0.3, 0.5])}
        | {"img_ids": torch.ones(16, 3), "txt_ids": torch.zeros(7, 3)},
    ),
    (
        *("flux2", "Flux2Transformer2DModel"),
        {
            **_HEADS,
            "in_channels": 16,
            "num_single_layers": 2,
            "joint_attention_dim": 32,
            "axes_dims_rope": (16, 16, 16, 16),
        }
        | {"timestep_guidance_channels": 32, "guidance_embeds": False},
        {**_TEXT, "hidden_states": (2, 16, 16), "timestep": torch.tensor([0.3, 0.5])}
        | {"img_ids": torch.ones(16, 4), "txt_ids": torch.zeros(7, 4)},
    ),
    (
        *("wan", "WanTransformer3DModel"),
        {**_HEADS, "in_channels": 4, "out_channels": 4, "text_dim": 32, "freq_dim": 32, "ffn_dim": 512},
        _FILM,
    ),
    (
        *("cogvideox", "CogVideoXTransformer3DModel"),
        {**_HEADS, "in_channels": 4, "out_channels": 4, "time_embed_dim": 32, "text_embed_dim": 32}
        | {"sample_width": 8, "sample_height": 8, "sample_frames": 5, "max_text_seq_length": 7},
        {**_TEXT, "hidden_states": (2, 2, 4, 8, 8)},
    ),
    (
        *("hunyuan_dit", "HunyuanDiT2DModel"),
        {**_HEADS, "in_channels": 4, "sample_size": 8, "patch_size": 2, "hidden_size": 256, "cross_attention_dim": 32}
        | {"cross_attention_dim_t5": 32, "pooled_projection_dim": 16, "text_len": 7, "text_len_t5": 7}
        | {"use_style_cond_and_image_meta_size": False},
        {**_TEXT, "hidden_states": (2, 4, 8, 8), "encoder_hidden_states_t5": (2, 7, 32), "timestep": _TIME.float()}
        | {"text_embedding_mask": torch.ones(2, 7), "text_embedding_mask_t5": torch.ones(2, 7)}
        | {"image_rotary_emb": (torch.ones(16, 64), torch.zeros(16, 64))},
    ),
    (
        *("sana", "SanaTransformer2DModel"),
        {**_HEADS, "in_channels": 4, "out_channels": 4, "num_cross_attention_heads": 4, "cross_attention_head_dim": 64}
        | {"cross_attention_dim": 256, "caption_channels": 32, "sample_size": 8},
        {**_TEXT, "hidden_states": (2, 4, 8, 8)},
    ),
    (
        *("ltx", "LTXVideoTransformer3DModel"),
        {**_HEADS, "in_channels": 16, "out_channels": 16, "cross_attention_dim": 256, "caption_channels": 32},
        {**_TEXT, "hidden_states": (2, 32, 16), "encoder_attention_mask": torch.ones(2, 7)}
        | {"num_frames": 2, "height": 4, "width": 4},
    ),
    (
        *("auraflow", "AuraFlowTransformer2DModel"),
        {"sample_size": 8, "num_mmdit_layers": 1, "num_single_dit_layers": 1, "attention_head_dim": 64}
        | {
            "num_attention_heads": 4,
            "joint_attention_dim": 32,
            "caption_projection_dim": 256,
            "pos_embed_max_size": 16,
        },
        {**_TEXT, "hidden_states": (2, 4, 8, 8), "timestep": torch.tensor([0.3, 0.5])},
    ),
    (
        *("mochi", "MochiTransformer3DModel"),
        {**_HEADS, "in_channels": 4, "pooled_projection_dim": 64, "text_embed_dim": 32, "time_embed_dim": 32}
        | {"max_sequence_length": 7},
        {**_FILM, "encoder_attention_mask": torch.ones(2, 7, dtype=torch.bool)},
    ),
    (
        *("latte", "LatteTransformer3DModel"),
        {**_HEADS, "in_channels": 4, "sample_size": 8, "patch_size": 2, "cross_attention_dim": 256, "video_length": 2}
        | {"caption_channels": 32, "norm_type": "ada_norm_single", "norm_elementwise_affine": False},
        _FILM,
    ),
    (
        *("cogview4", "CogView4Transformer2DModel"),
        {**_HEADS, "in_channels": 4, "out_channels": 4, "text_embed_dim": 32, "time_embed_dim": 32, "sample_size": 8}
        | {"condition_dim": 16, "pos_embed_max_size": 8, "rope_axes_dim": (32, 32)},
        {**_TEXT, "hidden_states": (2, 4, 8, 8), "original_size": torch.ones(2, 2)}
        | {"target_size": torch.ones(2, 2), "crop_coords": torch.zeros(2, 2)},
    ),
    (
        *("prior", "PriorTransformer"),
        {**_HEADS, "num_layers": 3, "embedding_dim": 32, "num_embeddings": 7},
        {**_TEXT, "hidden_states": (2, 32), "proj_embedding": (2, 32)},
    ),
    (
        *("stable_audio", "StableAudioDiTModel"),
        {**_HEADS, "sample_size": 32, "in_channels": 16, "out_channels": 16, "num_key_value_attention_heads": 2}
        | {"cross_attention_dim": 32, "time_proj_dim": 32, "global_states_input_dim": 32}
        | {"cross_attention_input_dim": 32},
        {**_TEXT, "hidden_states": (2, 16, 32), "global_hidden_states": (2, 1, 32)}
        | {"timestep": torch.tensor([0.3, 0.5]), "rotary_embedding": (torch.ones(33, 32), torch.zeros(33, 32))},
    ),
    (
        *("qwen_image", "QwenImageTransformer2DModel"),
        {**_HEADS, "in_channels": 16, "out_channels": 4, "joint_attention_dim": 32, "axes_dims_rope": (16, 24, 24)},
        {**_TEXT, "hidden_states": (2, 16, 16), "timestep": torch.tensor([0.3, 0.5])}
        | {"encoder_hidden_states_mask": torch.ones(2, 7), "img_shapes": [[(1, 4, 4)]] * 2},
    ),
    (
        *("hunyuan_video", "HunyuanVideoTransformer3DModel"),
        {**_HEADS, "in_channels": 4, "out_channels": 4, "num_single_layers": 1, "num_refiner_layers": 1}
        | {"text_embed_dim": 32, "pooled_projection_dim": 32, "rope_axes_dim": (16, 24, 24), "guidance_embeds": False},
        {**_FILM, "encoder_attention_mask": torch.ones(2, 7), "pooled_projections": (2, 32)},
    ),
)

_PICTURE: Mapping[str, Any] = {"sample": (2, 3, 32, 32)}
_FILMED: Mapping[str, Any] = {"sample": (1, 3, 5, 32, 32)}
_AUTOENCODERS: tuple[Row, ...] = (
    (
        *("vae", "AutoencoderKL"),
        {**_LEVELS, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2},
        _PICTURE,
    ),
    (
        *("vq", "VQModel"),
        {**_LEVELS, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2},
        _PICTURE,
    ),
    (
        *("tiny", "AutoencoderTiny"),
        {"encoder_block_out_channels": (32, 32), "decoder_block_out_channels": (32, 32)}
        | {"num_encoder_blocks": (1, 2), "num_decoder_blocks": (2, 1)},
        _PICTURE,
    ),
    (
        *("dc", "AutoencoderDC"),
        {"latent_channels": 8, "attention_head_dim": 8, "encoder_block_out_channels": (32, 64)}
        | {"encoder_block_types": ("ResBlock", "EfficientViTBlock"), "encoder_layers_per_block": (1, 1)}
        | {"decoder_block_types": ("ResBlock", "EfficientViTBlock"), "decoder_layers_per_block": (1, 1)}
        | {"decoder_block_out_channels": (32, 64), "encoder_qkv_multiscales": ((), (5,))}
        | {"decoder_qkv_multiscales": ((), (5,))},
        _PICTURE,
    ),
    ("wan_vae", "AutoencoderKLWan", {"base_dim": 16, "z_dim": 16, "num_res_blocks": 1}, _FILMED),
    (
        *("cogvideox_vae", "AutoencoderKLCogVideoX"),
        {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8, "latent_channels": 4}
        | {"down_block_types": ("CogVideoXDownBlock3D",) * 2, "up_block_types": ("CogVideoXUpBlock3D",) * 2},
        _FILMED,
    ),
    (
        *("hunyuan_video_vae", "AutoencoderKLHunyuanVideo"),
        {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1, "norm_num_groups": 8, "latent_channels": 4},
        _FILMED,
    ),
    (
        *("temporal_vae", "AutoencoderKLTemporalDecoder"),
        {"block_out_channels": (128, 256), "down_block_types": ("DownEncoderBlock2D",) * 2},
        {"sample": (2, 3, 32, 32), "num_frames": 2},
    ),
)

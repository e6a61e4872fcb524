"""More architectures of ``transformers``: pictures, films, sounds, several of them with text, series, other texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.build import SEQ, Build, Headed, Only, merged, random_inputs

_SMALL: Mapping[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "use_cache": False,
}
_TEXT: Mapping[str, Any] = {**_SMALL, "vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DECODER: Mapping[str, Any] = {**_TEXT, "num_key_value_heads": 2, "head_dim": 16}
_SIGHT: Mapping[str, Any] = {**_SMALL, "image_size": 32, "patch_size": 8, "num_channels": 3}
_IDS: Mapping[str, Any] = {"input_ids": [90, 2, 12]}
_MASKED: Mapping[str, Any] = {**_IDS, "attention_mask": torch.ones(2, 12, dtype=torch.long)}
_PICTURE: Mapping[str, Any] = {"pixel_values": (2, 3, 32, 32)}
_BOTH: Mapping[str, Any] = {**_MASKED, **_PICTURE}

Row = tuple[str, str, Mapping[str, Any], Mapping[str, Any]] | tuple[str, str, Mapping[str, Any], Mapping[str, Any], str]
"""A name, a class, the options of its config, its inputs as for ``random_inputs``, and the outputs that count.

``head 64`` puts a head of that width behind the first of them, ``head 64 -3`` on its dimension -3.
"""


def more_transformers() -> Iterator[Build]:
    """The builds of every table below."""
    for name, kind, options, inputs, *outputs in (
        *_PICTURES,
        *_DETECTORS,
        *_FILMS,
        *_SOUNDS,
        *_MIXED,
        *_SERIES,
        *_TEXTS,
    ):
        chosen = outputs[0].split() if outputs else ["logits", "last_hidden_state"]
        yield Build(name, "transformers", _model(kind, options, chosen), random_inputs(**inputs))


def _model(kind: str, options: Mapping[str, Any], outputs: list[str]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()
        found = getattr(transformers, kind)
        model: nn.Module = found(found.config_class(**_with_configs(options, transformers)))
        if outputs[0] == "head":
            return Headed(model, *map(int, outputs[1:]))
        return Only(model, *outputs)

    return build


def _with_configs(options: Mapping[str, Any], transformers: Any) -> dict[str, Any]:
    """The options, where ``{"config": "ResNetConfig", ...}`` is that config."""
    made: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and "config" in value:
            inner = {key: given for key, given in value.items() if key != "config"}
            value = getattr(transformers, value["config"])(**_with_configs(inner, transformers))
        made[name] = value
    return made


# ------------------------------------------------------------------------------------------------------------- pictures

_PYRAMID: Mapping[str, Any] = {"embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
_RESNET: Mapping[str, Any] = {
    "config": "ResNetConfig",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 64, 64],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage4"],
}
_RESNET_PYRAMID: Mapping[str, Any] = {**_RESNET, "out_features": ["stage2", "stage3", "stage4"]}
_SWIN: Mapping[str, Any] = {
    "config": "SwinConfig",
    "image_size": 64,
    "embed_dim": 16,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 4, 4],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_DINO: Mapping[str, Any] = {
    **_SIGHT,
    "config": "Dinov2Config",
    "out_features": ["stage1", "stage2"],
    "reshape_hidden_states": False,
}
_LARGE: Mapping[str, Any] = {"pixel_values": (2, 3, 64, 64)}
_PICTURES: tuple[Row, ...] = (
    ("vit_mae", "ViTMAEModel", {**_SIGHT, "mask_ratio": 0.0}, {**_PICTURE, "noise": (2, 16)}, "head 64"),
    ("vit_msn", "ViTMSNForImageClassification", _SIGHT, _PICTURE),
    ("dinov2_registers", "Dinov2WithRegistersForImageClassification", _SIGHT, _PICTURE),
    ("dinov3", "DINOv3ViTModel", {**_SIGHT, "rope_theta": 100.0}, _PICTURE, "head 64"),
    ("dinov3_convnext", "DINOv3ConvNextModel", {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]}, _LARGE, "head 64"),
    ("vitdet", "VitDetModel", {**_SIGHT, "window_size": 2, "window_block_indices": [0]}, _PICTURE, "head 64 -3"),
    ("vitpose", "VitPoseForPoseEstimation", {
        "backbone_config": {**_SIGHT, "config": "VitPoseBackboneConfig", "image_size": [32, 32], "patch_size": [8, 8]}
        | {"out_features": ["stage2"]}, "num_labels": 5,
    }, _PICTURE, "heatmaps"),
    ("swin2sr", "Swin2SRForImageSuperResolution", {
        **_PYRAMID, "image_size": 16, "num_heads": [2, 2], "upscale": 2, "upsampler": "pixelshuffledirect",
    }, {"pixel_values": (2, 3, 16, 16)}, "reconstruction"),
    ("mobilenet_v1", "MobileNetV1ForImageClassification", {"depth_multiplier": 0.5}, _LARGE),
    ("mobilenet_v2", "MobileNetV2ForImageClassification", {"depth_multiplier": 0.5}, _LARGE),
    ("mobilevitv2", "MobileViTV2ForImageClassification", {"width_multiplier": 0.5}, _LARGE),
    ("convnext", "ConvNextForImageClassification", {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]}, _LARGE),
    ("pvt_v2", "PvtV2ForImageClassification", {
        "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4], "image_size": 64,
    }, _LARGE),
    ("swiftformer", "SwiftFormerForImageClassification", {"embed_dims": [16, 32, 64, 64], "depths": [1, 1, 1, 1]}, _LARGE),
    ("textnet", "TextNetForImageClassification", {}, _LARGE),
    ("hgnet_v2", "HGNetV2ForImageClassification", {}, _LARGE),
    ("imagegpt", "ImageGPTForImageClassification", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100}, _IDS),
    ("siglip2_vision", "Siglip2VisionModel", {**_SIGHT, "num_patches": 16}, {
        "pixel_values": (2, 16, 192), "pixel_attention_mask": torch.ones(2, 16, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4], [4, 4]]),
    }, "pooler_output"),
    ("aimv2_vision", "Aimv2VisionModel", {**_SIGHT, "use_head": True}, _PICTURE, "pooler_output"),
    ("pixtral_vision", "PixtralVisionModel", {**_SIGHT, "head_dim": 16}, _PICTURE, "head 64"),
    ("dpt", "DPTForDepthEstimation", {
        **_SIGHT, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 32, 32, 64], "fusion_hidden_size": 32,
        "is_hybrid": False, "readout_type": "project",
    }, _PICTURE, "predicted_depth"),
    ("depth_anything", "DepthAnythingForDepthEstimation", {
        "backbone_config": {**_DINO, "num_hidden_layers": 4}
        | {"out_features": ["stage1", "stage2", "stage3", "stage4"]}, "patch_size": 8,
        "reassemble_hidden_size": 64, "neck_hidden_sizes": [16, 32, 32, 64], "fusion_hidden_size": 32,
        "head_hidden_size": 16,
    }, _PICTURE, "predicted_depth"),
    ("glpn", "GLPNForDepthEstimation", {
        "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4],
        "decoder_hidden_size": 16,
    }, _LARGE, "predicted_depth"),
    ("segformer_semantic", "SegformerForSemanticSegmentation", {
        "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4],
        "decoder_hidden_size": 64,
    }, _LARGE),
    ("upernet", "UperNetForSemanticSegmentation", {
        "backbone_config": _SWIN, "hidden_size": 32, "auxiliary_in_channels": 64, "use_auxiliary_head": False,
    }, _LARGE),
    ("beit_semantic", "BeitForSemanticSegmentation", {
        **_SIGHT, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "image_size": 64, "use_auxiliary_head": False,
        "semantic_loss_ignore_index": 255,
    }, _LARGE),
)  # fmt: skip

# ------------------------------------------------------------------------------------------------------------ detectors

_QUERIES: Mapping[str, Any] = {
    **SEQ, "num_queries": 5, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
    "backbone_config": _RESNET, "num_labels": 4,
}  # fmt: skip
_BOXES = "logits pred_boxes"
_RT: Mapping[str, Any] = {
    "backbone_config": {**_RESNET_PYRAMID, "config": "RTDetrResNetConfig"}, "encoder_hidden_dim": 32,
    "encoder_in_channels": [32, 64, 64], "encoder_ffn_dim": 64, "encoder_attention_heads": 4, "d_model": 32,
    "decoder_in_channels": [32, 32, 32], "decoder_ffn_dim": 64, "decoder_attention_heads": 4, "decoder_layers": 2,
    "num_queries": 5, "num_denoising": 0, "num_labels": 4,
}  # fmt: skip
_DETECTORS: tuple[Row, ...] = (
    ("detr", "DetrForObjectDetection", _QUERIES, _LARGE, _BOXES),
    ("detr_masks", "DetrForSegmentation", {
        **_QUERIES, "encoder_attention_heads": 8, "decoder_attention_heads": 8,
        "backbone_config": {**_RESNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
    }, _LARGE, f"{_BOXES} pred_masks"),
    ("conditional_detr", "ConditionalDetrForObjectDetection", _QUERIES, _LARGE, _BOXES),
    ("dab_detr", "DabDetrForObjectDetection", {**_QUERIES, "hidden_size": 64}, _LARGE, _BOXES),
    ("deformable_detr", "DeformableDetrForObjectDetection", {
        **_QUERIES, "backbone_config": _RESNET_PYRAMID, "num_feature_levels": 3,
    }, _LARGE, _BOXES),
    ("table_transformer", "TableTransformerForObjectDetection", _QUERIES, _LARGE, _BOXES),
    ("rt_detr", "RTDetrForObjectDetection", _RT, _LARGE, _BOXES),
    ("rt_detr_v2", "RTDetrV2ForObjectDetection", _RT, _LARGE, _BOXES),
    ("yolos", "YolosForObjectDetection", {
        **_SIGHT, "image_size": [32, 32], "num_detection_tokens": 5, "use_mid_position_embeddings": False,
    }, _PICTURE, _BOXES),
    ("maskformer", "MaskFormerForInstanceSegmentation", {
        "backbone_config": _SWIN, "fpn_feature_size": 32, "mask_feature_size": 32,
        "decoder_config": {**_QUERIES, "config": "DetrConfig"},
    }, _LARGE, "class_queries_logits masks_queries_logits"),
    ("mask2former", "Mask2FormerForUniversalSegmentation", {
        "backbone_config": _SWIN, "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_queries": 5,
        "encoder_feedforward_dim": 64, "dim_feedforward": 64, "encoder_layers": 1, "decoder_layers": 2,
        "num_attention_heads": 4, "num_labels": 4,
    }, _LARGE, "class_queries_logits masks_queries_logits"),
    ("eomt", "EomtForUniversalSegmentation", {
        **_SIGHT, "image_size": 32, "num_blocks": 1, "num_queries": 5, "num_register_tokens": 0, "num_upscale_blocks": 1,
        "num_labels": 4,
    }, _PICTURE, "class_queries_logits masks_queries_logits"),
    ("sam", "SamModel", {
        "vision_config": {**_SIGHT, "output_channels": 32, "num_pos_feats": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 128},
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 32, "patch_size": 8, "mask_input_channels": 4},
        "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32},
    }, {**_PICTURE, "input_points": torch.rand(2, 1, 2, 2)}, "pred_masks iou_scores"),
    ("superpoint", "SuperPointForKeypointDetection", {}, _LARGE, "descriptors"),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------- films

_FRAMES: Mapping[str, Any] = {"pixel_values": (2, 2, 3, 32, 32)}
_FILMS: tuple[Row, ...] = (
    ("videomae", "VideoMAEForVideoClassification", {**_SIGHT, "num_frames": 2, "tubelet_size": 2}, _FRAMES),
    ("timesformer", "TimesformerForVideoClassification", {**_SIGHT, "num_frames": 2}, _FRAMES),
    ("vivit", "VivitForVideoClassification", {**_SIGHT, "num_frames": 2, "tubelet_size": [2, 8, 8]}, _FRAMES),
    ("vjepa2", "VJEPA2ForVideoClassification", {
        **_SIGHT, "crop_size": 32, "frames_per_clip": 2, "tubelet_size": 2, "pred_hidden_size": 32,
        "pred_num_attention_heads": 4, "pred_num_hidden_layers": 1, "num_pooler_layers": 1,
    }, {"pixel_values_videos": (2, 2, 3, 32, 32)}),
)  # fmt: skip

# --------------------------------------------------------------------------------------------------------------- sounds

_WAVE: Mapping[str, Any] = {
    **_TEXT, "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0, "mask_time_length": 2,
    "squeeze_factor": 2,
}  # fmt: skip
_HEARD: Mapping[str, Any] = {"input_values": (2, 1600)}
_SAID: Mapping[str, Any] = {"decoder_input_ids": [90, 2, 8]}
_SOUNDS: tuple[Row, ...] = (
    ("wav2vec2_conformer", "Wav2Vec2ConformerForCTC", _WAVE, _HEARD),
    ("wav2vec2_bert", "Wav2Vec2BertForCTC", {**_WAVE, "feature_projection_input_dim": 16}, {"input_features": (2, 20, 16)}),
    ("unispeech_sat", "UniSpeechSatForCTC", _WAVE, _HEARD),
    ("sew", "SEWForCTC", _WAVE, _HEARD),
    ("sew_d", "SEWDForCTC", _WAVE, _HEARD),
    ("speech_to_text", "Speech2TextForConditionalGeneration", {
        **SEQ, "input_feat_per_channel": 16, "conv_channels": 64, "max_source_positions": 64, "max_target_positions": 64,
    }, {"input_features": (2, 32, 16), **_SAID}),
    ("moonshine", "MoonshineForConditionalGeneration", {
        **_DECODER, "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 4,
        "decoder_num_attention_heads": 4, "decoder_start_token_id": 1,
    }, {"input_values": (2, 4000), **_SAID}),
    ("audio_spectrogram", "ASTForAudioClassification", {**_SIGHT, "max_length": 32, "num_mel_bins": 16}, {
        "input_values": (2, 32, 16),
    }),
    ("encodec", "EncodecModel", {"num_filters": 8, "upsampling_ratios": [4, 2], "hidden_size": 32, "codebook_size": 16}
        | {"codebook_dim": 32, "target_bandwidths": [24.0]}, {"input_values": (2, 1, 640)}, "audio_values"),
    ("speecht5", "SpeechT5ForSpeechToText", {
        **_WAVE, **SEQ, "max_speech_positions": 128, "max_text_positions": 64, "positional_dropout": 0.0,
    }, {**_HEARD, **_SAID}),
    ("parakeet", "ParakeetForCTC", {
        "encoder_config": {**_DECODER, "subsampling_conv_channels": 16, "num_mel_bins": 16, "scale_input": False},
        "vocab_size": 100, "pad_token_id": 0,
    }, {"input_features": (2, 64, 16)}),
)  # fmt: skip

# ------------------------------------------------------------------------------------------------------- several of them

_PAIR: Mapping[str, Any] = {"text_config": _TEXT, "vision_config": _SIGHT, "projection_dim": 32}
_LOGITS = "logits_per_image logits_per_text"


def _places(image_token: int, count: int) -> torch.Tensor:
    """Ids of two texts with the token of a picture at ``count`` places."""
    ids = torch.randint(3, 90, (2, count + 6), generator=torch.Generator().manual_seed(0))
    ids[:, 2 : 2 + count] = image_token
    return ids


def _seen(count: int, **inputs: Any) -> dict[str, Any]:
    """Inputs with a picture that ``count`` tokens, of id 95, stand for."""
    return {"input_ids": _places(95, count), "attention_mask": torch.ones(2, count + 6, dtype=torch.long), **inputs}


_LLAMA: Mapping[str, Any] = {"config": "LlamaConfig", **_DECODER}
_CLIP_VISION: Mapping[str, Any] = {"config": "CLIPVisionConfig", **_SIGHT}
_SIGLIP_VISION: Mapping[str, Any] = {"config": "SiglipVisionConfig", **_SIGHT, "vision_use_head": False}
_QWEN_TEXT: Mapping[str, Any] = {
    **_DECODER, "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [2, 3, 3]},
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
}  # fmt: skip
_QWEN: Mapping[str, Any] = {"image_token_id": 95, "video_token_id": 96, "vision_start_token_id": 97}
_QWEN_INPUT: Mapping[str, Any] = _seen(4, image_grid_thw=torch.tensor([[1, 4, 4], [1, 4, 4]]))
_MIXED: tuple[Row, ...] = (
    ("clip", "CLIPModel", _PAIR, _BOTH, _LOGITS),
    ("siglip_pair", "SiglipModel", _PAIR, _BOTH, _LOGITS),
    ("metaclip_2", "MetaClip2Model", _PAIR, _BOTH, _LOGITS),
    ("chinese_clip", "ChineseCLIPModel", _PAIR, _BOTH, _LOGITS),
    ("altclip", "AltCLIPModel", merged(_PAIR, text_config={**_TEXT, "project_dim": 32}), _BOTH, _LOGITS),
    ("aimv2", "Aimv2Model", _PAIR, _BOTH, _LOGITS),
    ("clipseg", "CLIPSegForImageSegmentation", {**_PAIR, "reduce_dim": 16, "extract_layers": [0, 1]}
        | {"decoder_num_attention_heads": 4, "decoder_intermediate_size": 32}, _BOTH),
    ("owlvit", "OwlViTForObjectDetection", {**_PAIR, "projection_dim": 64}, {**_BOTH, "input_ids": [90, 4, 12]}
        | {"attention_mask": torch.ones(4, 12, dtype=torch.long)}, _BOXES),
    ("clap", "ClapTextModelWithProjection", {**_TEXT, "projection_dim": 32}, _MASKED, "text_embeds"),
    ("blip", "BlipForImageTextRetrieval", {**_PAIR, "image_text_hidden_size": 32}
        | {"text_config": {**_TEXT, "encoder_hidden_size": 64}}, _BOTH, "itm_score"),
    ("vilt", "ViltForQuestionAnswering", {**_SIGHT, **_TEXT, "num_labels": 4}, _BOTH),
    ("visual_bert", "VisualBertForQuestionAnswering", {**_TEXT, "visual_embedding_dim": 32, "num_labels": 4}, {
        **_MASKED, "visual_embeds": (2, 4, 32), "visual_attention_mask": torch.ones(2, 4),
        "visual_token_type_ids": torch.ones(2, 4, dtype=torch.long),
    }),
    ("lxmert", "LxmertForQuestionAnswering", {
        **_TEXT, "l_layers": 1, "r_layers": 1, "x_layers": 1, "visual_feat_dim": 32, "num_qa_labels": 4,
    }, {**_MASKED, "visual_feats": (2, 4, 32), "visual_pos": (2, 4, 4)}, "question_answering_score"),
    ("git", "GitForCausalLM", {**_TEXT, "vision_config": _SIGHT}, _BOTH),
    ("llava", "LlavaForConditionalGeneration", {
        "vision_config": _CLIP_VISION, "text_config": _LLAMA, "image_token_index": 95, "vision_feature_layer": -1,
    }, _seen(16, **_PICTURE)),
    ("paligemma", "PaliGemmaForConditionalGeneration", {
        "vision_config": _SIGLIP_VISION, "text_config": {"config": "GemmaConfig", **_DECODER}, "image_token_index": 95,
        "projection_dim": 64, "hidden_size": 64,
    }, _seen(16, **_PICTURE)),
    ("gemma3_text", "Gemma3ForCausalLM", _DECODER, _IDS),
    ("gemma3", "Gemma3ForConditionalGeneration", {
        "vision_config": _SIGLIP_VISION, "text_config": {"config": "Gemma3TextConfig", **_DECODER},
        "image_token_index": 95, "mm_tokens_per_image": 4,
    }, _seen(4, token_type_ids=(_places(95, 4) == 95).long(), **_PICTURE)),
    ("idefics3", "Idefics3ForConditionalGeneration", {
        "vision_config": {"config": "Idefics3VisionConfig", **_SIGHT}, "text_config": _LLAMA, "image_token_id": 95,
        "scale_factor": 2,
    }, _seen(4, pixel_values=(2, 1, 3, 32, 32))),
    ("internvl", "InternVLForConditionalGeneration", {
        "vision_config": {"config": "InternVLVisionConfig", **_SIGHT, "image_size": [32, 32], "patch_size": [8, 8]},
        "text_config": _LLAMA, "image_token_id": 95, "image_seq_length": 4, "vision_feature_layer": -1,
    }, _seen(4, **_PICTURE)),
    ("qwen2_vl", "Qwen2VLForConditionalGeneration", {
        **_QWEN, "text_config": _QWEN_TEXT, "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64}
        | {"num_heads": 4, "patch_size": 4, "temporal_patch_size": 2},
    }, {**_QWEN_INPUT, "pixel_values": (32, 96)}),
    ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", {
        **_QWEN, "text_config": _QWEN_TEXT, "vision_config": {"depth": 2, "hidden_size": 32, "out_hidden_size": 64}
        | {"num_heads": 4, "patch_size": 4, "temporal_patch_size": 2, "intermediate_size": 64, "window_size": 16}
        | {"fullatt_block_indexes": [1]},
    }, {**_QWEN_INPUT, "pixel_values": (32, 96)}),
    ("qwen3_vl", "Qwen3VLForConditionalGeneration", {
        **_QWEN, "text_config": _QWEN_TEXT, "vision_config": {"depth": 2, "hidden_size": 32, "out_hidden_size": 64}
        | {"num_heads": 4, "patch_size": 4, "temporal_patch_size": 2, "intermediate_size": 64}
        | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    }, {**_QWEN_INPUT, "pixel_values": (32, 96)}),
    ("blip_2", "Blip2ForConditionalGeneration", {
        "vision_config": _SIGHT, "text_config": {"config": "OPTConfig", **_TEXT, "ffn_dim": 128}
        | {"word_embed_proj_dim": 64}, "num_query_tokens": 4, "image_token_index": 95,
        "qformer_config": {**_TEXT, "encoder_hidden_size": 64, "cross_attention_frequency": 1},
    }, _seen(4, **_PICTURE)),
)  # fmt: skip

# --------------------------------------------------------------------------------------------------------------- series

_SERIES: tuple[Row, ...] = (
    ("patchtst", "PatchTSTForPrediction", {
        "num_input_channels": 2, "context_length": 32, "patch_length": 4, "patch_stride": 4, "d_model": 64,
        "num_attention_heads": 4, "num_hidden_layers": 2, "ffn_dim": 128, "prediction_length": 8, "loss": "mse",
        "do_mask_input": False,
    }, {"past_values": (2, 32, 2)}, "prediction_outputs"),
    ("patchtsmixer", "PatchTSMixerForPrediction", {
        "num_input_channels": 2, "context_length": 32, "patch_length": 4, "patch_stride": 4, "d_model": 64,
        "num_layers": 2, "prediction_length": 8, "loss": "mse",
    }, {"past_values": (2, 32, 2)}, "prediction_outputs"),
    ("timesfm", "TimesFmModelForPrediction", {**_DECODER, "num_key_value_heads": 4, "patch_length": 8, "context_length": 32, "horizon_length": 8}, {
        "past_values": (2, 32), "freq": [3, 2],
    }, "mean_predictions"),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------- other texts

_CORNERS = torch.arange(12).view(1, 12, 1).repeat(2, 1, 4)
_SSM: Mapping[str, Any] = {**_TEXT, "state_size": 8, "expand": 2, "time_step_rank": 8, "n_groups": 2}
_TEXTS: tuple[Row, ...] = (
    ("openai", "OpenAIGPTLMHeadModel", {**_TEXT, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}, _IDS),
    ("gpt_bigcode", "GPTBigCodeForCausalLM", {**_TEXT, "n_embd": 64, "n_layer": 2, "n_head": 4}, _IDS),
    ("biogpt", "BioGptForCausalLM", _TEXT, _IDS),
    ("olmo", "OlmoForCausalLM", _DECODER, _IDS),
    ("olmo3", "Olmo3ForCausalLM", {**_DECODER, "layer_types": ["sliding_attention", "full_attention"]}, _IDS),
    ("cohere2", "Cohere2ForCausalLM", _DECODER, _IDS),
    ("nemotron", "NemotronForCausalLM", _DECODER, _IDS),
    ("persimmon", "PersimmonForCausalLM", _DECODER, _IDS),
    ("exaone4", "Exaone4ForCausalLM", _DECODER, _IDS),
    ("diffllama", "DiffLlamaForCausalLM", _DECODER, _IDS),
    ("glm", "GlmForCausalLM", _DECODER, _IDS),
    ("apertus", "ApertusForCausalLM", _DECODER, _IDS),
    ("arcee", "ArceeForCausalLM", _DECODER, _IDS),
    ("seed_oss", "SeedOssForCausalLM", _DECODER, _IDS),
    ("bitnet", "BitNetForCausalLM", _DECODER, _IDS),
    ("minicpm3", "MiniCPM3ForCausalLM", {
        **_DECODER, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 16, "num_key_value_heads": 4,
    }, _IDS),
    ("lfm2", "Lfm2ForCausalLM", {**_DECODER, "layer_types": ["conv", "full_attention"], "block_ff_dim": 128}, _IDS),
    ("mamba", "MambaForCausalLM", _SSM, _IDS),
    ("falcon_mamba", "FalconMambaForCausalLM", _SSM, _IDS),
    ("mamba2", "Mamba2ForCausalLM", {**_SSM, "num_heads": 8, "head_dim": 16, "chunk_size": 4}, _IDS),
    ("recurrent_gemma", "RecurrentGemmaForCausalLM", {
        **_DECODER, "lru_width": 64, "block_types": ["recurrent", "attention"], "attention_window_size": 8,
    }, _IDS),
    ("rwkv", "RwkvForCausalLM", {**_TEXT, "attention_hidden_size": 64}, _IDS),
    ("qwen3_next", "Qwen3NextForCausalLM", {
        **_DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
    }, _IDS),
    ("bamba", "BambaForCausalLM", {
        **_DECODER, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1,
        "attn_layer_indices": [1], "mamba_chunk_size": 4,
    }, _IDS),
    ("longformer", "LongformerForSequenceClassification", {**_TEXT, "attention_window": [4, 4]}, _MASKED),
    ("big_bird", "BigBirdForSequenceClassification", {**_TEXT, "attention_type": "original_full"}, _MASKED),
    ("megatron_bert", "MegatronBertForSequenceClassification", _TEXT, _MASKED),
    ("ibert", "IBertForSequenceClassification", _TEXT, _MASKED),
    ("flaubert", "FlaubertForSequenceClassification", {**_TEXT, "n_vocab": 100, "emb_dim": 64}
        | {"n_layers": 2, "n_heads": 4}, _MASKED),
    ("xmod", "XmodForSequenceClassification", {**_TEXT, "languages": ["en"], "default_language": "en"}, _MASKED),
    ("luke", "LukeForEntityClassification", {**_TEXT, "num_labels": 4, "entity_vocab_size": 10, "entity_emb_size": 32}, {
        **_MASKED, "entity_ids": [9, 2, 2], "entity_position_ids": [9, 2, 2, 3],
        "entity_attention_mask": torch.ones(2, 2, dtype=torch.long),
    }),
    ("layoutlm", "LayoutLMForSequenceClassification", _TEXT, {**_MASKED, "bbox": _CORNERS}),
    ("lilt", "LiltForSequenceClassification", {**_TEXT, "hidden_size": 96, "channel_shrink_ratio": 2}, {
        **_MASKED, "bbox": _CORNERS,
    }),
    ("eurobert", "EuroBertForSequenceClassification", _DECODER, _MASKED),
    ("perceiver", "PerceiverForSequenceClassification", {
        **_SMALL, "num_latents": 8, "d_latents": 64, "d_model": 32, "num_blocks": 1, "num_self_attends_per_block": 1,
        "num_self_attention_heads": 4, "num_cross_attention_heads": 4, "vocab_size": 100,
    }, {"inputs": [90, 2, 12], "attention_mask": torch.ones(2, 12, dtype=torch.long)}),
    ("reformer", "ReformerModelWithLMHead", {
        **_SMALL, "attn_layers": ["local", "local"], "is_decoder": True, "axial_pos_embds": False, "feed_forward_size": 64,
        "attention_head_size": 16, "local_attn_chunk_length": 4, "vocab_size": 100,
    }, {"input_ids": [90, 2, 16]}),
    ("prophetnet", "ProphetNetForConditionalGeneration", {
        "vocab_size": 100, "hidden_size": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_encoder_layers": 1,
        "num_decoder_layers": 1, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "use_cache": False,
    }, {**_IDS, **_SAID}),
    ("nllb_moe", "NllbMoeForConditionalGeneration", {
        **SEQ, "num_experts": 4, "encoder_sparse_step": 1, "decoder_sparse_step": 1,
    }, {**_MASKED, **_SAID}),
    ("plbart", "PLBartForConditionalGeneration", SEQ, {**_MASKED, **_SAID}),
    ("bigbird_pegasus", "BigBirdPegasusForConditionalGeneration", {**SEQ, "attention_type": "original_full"}, {
        **_MASKED, **_SAID,
    }),
    ("t5gemma", "T5GemmaForConditionalGeneration", {
        "encoder": {**_DECODER}, "decoder": {**_DECODER}, "vocab_size": 100, "pad_token_id": 0,
    }, {**_MASKED, **_SAID}),
    ("trocr", "TrOCRForCausalLM", {**SEQ, "cross_attention_hidden_size": 32}, {
        **_IDS, "encoder_hidden_states": (2, 5, 32),
    }),
)  # fmt: skip

"""Architectures of other libraries, small and with random weights, for ``bench_reach``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.architectures_diffusers import diffusers_builds
from benchmarks.architectures_transformers import more_transformers
from benchmarks.build import SEQ, Build, Only, pictures, random_inputs


def _ids(**more: Any) -> Callable[[], dict[str, Any]]:
    def inputs() -> dict[str, Any]:
        return {"input_ids": torch.randint(90, (2, 12), generator=torch.Generator().manual_seed(0)), **more}

    return inputs


# ------------------------------------------------------------------------------------------------------- transformers

_TEXT: Mapping[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 16,
}
_MOE: Mapping[str, Any] = {
    **_TEXT,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "shared_expert_intermediate_size": 64,
    "topk_group": 1,
    "n_group": 1,
    "moe_num_experts": 4,
    "moe_k": 2,
    "first_k_dense_replace": 1,
}
_LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}


def _model(
    name: str, options: Mapping[str, Any], output: str | None = "logits", config: str = ""
) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()
        kind = getattr(transformers, name)
        made = (getattr(transformers, config) if config else kind.config_class)(**options)
        model: nn.Module = kind(made)
        return model if output is None else Only(model, output)

    return build


def _transformers() -> Iterator[Build]:
    def text(name: str, kind: str, options: Mapping[str, Any] = _TEXT, **more: Any) -> Build:
        return Build(name, "transformers", _model(kind, {**options, **more}), _ids())

    for name, kind in {
        "llama": "LlamaForCausalLM",
        "mistral": "MistralForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
        "gemma": "GemmaForCausalLM",
        "gemma2": "Gemma2ForCausalLM",
        "phi": "PhiForCausalLM",
        "phi3": "Phi3ForCausalLM",
        "stablelm": "StableLmForCausalLM",
        "olmo2": "Olmo2ForCausalLM",
        "granite": "GraniteForCausalLM",
        "starcoder2": "Starcoder2ForCausalLM",
        "cohere": "CohereForCausalLM",
        "glm4": "Glm4ForCausalLM",
        "gpt_neox": "GPTNeoXForCausalLM",
        "helium": "HeliumForCausalLM",
        "smollm3": "SmolLM3ForCausalLM",
    }.items():
        yield text(name, kind)
    falcon = {name: value for name, value in _TEXT.items() if name not in ("head_dim", "num_key_value_heads")}
    yield text("falcon", "FalconForCausalLM", falcon)
    yield text("falcon_new", "FalconForCausalLM", falcon, new_decoder_architecture=True, num_kv_heads=2)
    yield text("bloom", "BloomForCausalLM", n_layer=2, n_head=4)
    yield text("mpt", "MptForCausalLM", d_model=64, n_heads=4, n_layers=2)
    yield text("opt", "OPTForCausalLM", ffn_dim=128, word_embed_proj_dim=64)
    yield text("gpt2", "GPT2LMHeadModel", n_embd=64, n_layer=2, n_head=4)
    yield text("gptj", "GPTJForCausalLM", n_embd=64, n_layer=2, n_head=4, rotary_dim=8, n_positions=64)
    yield text("codegen", "CodeGenForCausalLM", n_embd=64, n_layer=2, n_head=4, rotary_dim=8, n_positions=64)
    yield text("gpt_neo", "GPTNeoForCausalLM", num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]])
    yield text("xglm", "XGLMForCausalLM", d_model=64, attention_heads=4, num_layers=2, ffn_dim=128)
    yield text("ctrl", "CTRLLMHeadModel", n_embd=64, n_layer=2, n_head=4, dff=128, n_positions=64)
    for name, kind in {
        "mixtral": "MixtralForCausalLM",
        "qwen2_moe": "Qwen2MoeForCausalLM",
        "qwen3_moe": "Qwen3MoeForCausalLM",
        "olmoe": "OlmoeForCausalLM",
        "gpt_oss": "GptOssForCausalLM",
        "granitemoe": "GraniteMoeForCausalLM",
        "ernie4_5_moe": "Ernie4_5_MoeForCausalLM",
        "phimoe": "PhimoeForCausalLM",
        "glm4_moe": "Glm4MoeForCausalLM",
        "minimax": "MiniMaxForCausalLM",
        "dots1": "Dots1ForCausalLM",
        "hunyuan_moe": "HunYuanMoEV1ForCausalLM",
        "flex_olmo": "FlexOlmoForCausalLM",
        "afmoe": "AfmoeForCausalLM",
        "jetmoe": "JetMoeForCausalLM",
    }.items():
        yield text(name, kind, _MOE)
    yield text("llama4", "Llama4ForCausalLM", _MOE, intermediate_size_mlp=128)
    yield text("deepseek_v2", "DeepseekV2ForCausalLM", _MOE, **_LATENT, num_key_value_heads=4, head_dim=8)
    yield text("deepseek_v3", "DeepseekV3ForCausalLM", _MOE, **_LATENT, num_key_value_heads=4, head_dim=8)
    yield text(
        *("jamba", "JambaForCausalLM", _MOE),
        use_mamba_kernels=False,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        mamba_d_state=8,
        mamba_dt_rank=8,
    )
    yield Build(
        "dbrx",
        "transformers",
        _model(
            "DbrxForCausalLM",
            {
                "d_model": 64,
                "n_heads": 4,
                "n_layers": 2,
                "max_seq_len": 64,
                "vocab_size": 100,
                "use_cache": False,
                "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
                "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
            },
        ),
        _ids(),
    )
    for name, kind in {
        "bert": "BertForSequenceClassification",
        "roberta": "RobertaForSequenceClassification",
        "electra": "ElectraForSequenceClassification",
        "deberta": "DebertaForSequenceClassification",
        "deberta_v2": "DebertaV2ForSequenceClassification",
        "mpnet": "MPNetForSequenceClassification",
        "modernbert": "ModernBertForSequenceClassification",
        "nystromformer": "NystromformerForSequenceClassification",
        "squeezebert": "SqueezeBertForSequenceClassification",
        "convbert": "ConvBertForSequenceClassification",
        "fnet": "FNetForSequenceClassification",
        "roformer": "RoFormerForSequenceClassification",
        "rembert": "RemBertForSequenceClassification",
        "mobilebert": "MobileBertForSequenceClassification",
        "esm": "EsmForSequenceClassification",
        "albert": "AlbertForSequenceClassification",
    }.items():
        yield text(name, kind, embedding_size=64, d_model=64, n_layer=2, n_head=4, d_inner=128)
    xlnet = {name: value for name, value in _TEXT.items() if name != "max_position_embeddings"}
    yield text("xlnet", "XLNetForSequenceClassification", xlnet, d_model=64, n_layer=2, n_head=4, d_inner=128)
    yield text("distilbert", "DistilBertForSequenceClassification", dim=64, n_layers=2, n_heads=4, hidden_dim=128)
    funnel = {"vocab_size": 100, "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128, "block_sizes": [1, 1]}
    yield text("funnel", "FunnelForSequenceClassification", funnel)
    yield from _seq2seq()
    yield from _vision()


_T5: Mapping[str, Any] = {
    "vocab_size": 100,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}


def _seq2seq() -> Iterator[Build]:
    def inputs() -> dict[str, Tensor]:
        return {
            **_ids()(),
            "decoder_input_ids": torch.randint(3, 90, (2, 8), generator=torch.Generator().manual_seed(1)),
        }

    for name, kind in {
        "bart": "BartForConditionalGeneration",
        "mbart": "MBartForConditionalGeneration",
        "marian": "MarianMTModel",
        "pegasus": "PegasusForConditionalGeneration",
        "pegasus_x": "PegasusXForConditionalGeneration",
        "m2m_100": "M2M100ForConditionalGeneration",
        "blenderbot": "BlenderbotForConditionalGeneration",
        "led": "LEDForConditionalGeneration",
    }.items():
        yield Build(name, "transformers", _model(kind, SEQ), inputs)

    def masked() -> dict[str, Tensor]:
        return {**inputs(), "attention_mask": torch.ones(2, 12, dtype=torch.long)}

    for name, kind in {
        "t5": "T5ForConditionalGeneration",
        "mt5": "MT5ForConditionalGeneration",
        "umt5": "UMT5ForConditionalGeneration",
        "longt5": "LongT5ForConditionalGeneration",
        "switch": "SwitchTransformersForConditionalGeneration",
    }.items():
        yield Build(name, "transformers", _model(kind, _T5), masked)

    def speech() -> dict[str, Tensor]:
        return {
            "input_features": torch.randn(2, 80, 32, generator=torch.Generator().manual_seed(0)),
            "decoder_input_ids": torch.randint(3, 90, (2, 8), generator=torch.Generator().manual_seed(1)),
        }

    whisper = {**SEQ, "d_model": 128, "max_source_positions": 16, "max_target_positions": 32}
    yield Build("whisper", "transformers", _model("WhisperForConditionalGeneration", whisper), speech)

    def sounds() -> dict[str, Tensor]:
        return {"input_values": torch.randn(2, 1600, generator=torch.Generator().manual_seed(0))}

    wave = {**_TEXT, "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2}
    wave = {
        **wave,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "layerdrop": 0.0,
        "mask_time_length": 2,
    }
    for name, kind in {
        "wav2vec2": "Wav2Vec2ForCTC",
        "hubert": "HubertForCTC",
        "wavlm": "WavLMForCTC",
        "unispeech": "UniSpeechForCTC",
        "data2vec_audio": "Data2VecAudioForCTC",
    }.items():
        yield Build(name, "transformers", _model(kind, wave), sounds)


def _vision() -> Iterator[Build]:
    config = {**_TEXT, "image_size": 32, "patch_size": 8}
    for name, kind in {
        "vit": "ViTForImageClassification",
        "deit": "DeiTForImageClassification",
        "beit": "BeitForImageClassification",
        "data2vec_vision": "Data2VecVisionForImageClassification",
        "dinov2": "Dinov2ForImageClassification",
        "siglip": "SiglipForImageClassification",
        "ijepa": "IJepaForImageClassification",
        "hiera": "HieraForImageClassification",
        "poolformer": "PoolFormerForImageClassification",
        "mobilevit": "MobileViTForImageClassification",
        "efficientnet": "EfficientNetForImageClassification",
        "regnet": "RegNetForImageClassification",
        "resnet": "ResNetForImageClassification",
        "convnextv2": "ConvNextV2ForImageClassification",
        "bit": "BitForImageClassification",
        "levit": "LevitForImageClassification",
        "pvt": "PvtForImageClassification",
        "segformer": "SegformerForImageClassification",
        "swin": "SwinForImageClassification",
        "swinv2": "Swinv2ForImageClassification",
        "cvt": "CvtForImageClassification",
        "focalnet": "FocalNetForImageClassification",
    }.items():
        small: Mapping[str, Any] = (
            config if name in ("vit", "deit", "beit", "data2vec_vision", "dinov2", "siglip", "ijepa") else {}
        )
        size = 32 if small else 224
        small = {"vision_config": small} if name == "siglip" else small
        yield Build(name, "transformers", _model(kind, small), pictures(size))


# ------------------------------------------------------------------------------------------ timm, torchvision, diffusers

_TIMM = (
    *("resnet18", "resnetv2_50", "vit_tiny_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224"),
    *(
        "eva02_tiny_patch14_224",
        "swin_tiny_patch4_window7_224",
        "swinv2_tiny_window8_256",
        "convnext_atto",
        "convnextv2_atto",
    ),
    *("efficientnet_b0", "tf_efficientnetv2_b0", "mobilenetv3_small_100", "mobilenetv4_conv_small", "mixer_s16_224"),
    *("resmlp_12_224", "gmlp_s16_224", "densenet121", "regnety_002", "repvgg_a0", "ghostnet_100", "hrnet_w18_small"),
    *("dla34", "res2net50_26w_4s", "res2next50", "skresnet18", "resnest14d", "vovnet39a", "cspresnet50", "dpn68"),
    *(
        "inception_v3",
        "xception41",
        "coat_lite_tiny",
        "crossvit_tiny_240",
        "cait_xxs24_224",
        "levit_128s",
        "pit_ti_224",
    ),
    *(
        "tnt_s_patch16_224",
        "twins_svt_small",
        "visformer_tiny",
        "volo_d1_224",
        "xcit_nano_12_p16_224",
        "poolformer_s12",
    ),
    *(
        "maxvit_tiny_tf_224",
        "coatnet_0_224",
        "mobilevit_xxs",
        "mobilevitv2_050",
        "edgenext_xx_small",
        "efficientformer_l1",
    ),
    *("efficientvit_b0", "fastvit_t8", "davit_tiny", "focalnet_tiny_srf", "hiera_tiny_224", "inception_next_tiny"),
    *("maxxvit_rmlp_nano_rw_256", "nest_tiny", "pvt_v2_b0", "repvit_m1", "rexnet_100", "sequencer2d_s", "starnet_s1"),
    *(
        "tiny_vit_5m_224",
        "vit_small_patch16_dinov3",
        "naflexvit_base_patch16_gap",
        "hgnet_tiny",
        "tinynet_e",
        "selecsls42",
    ),
)
_WHOLE: Mapping[str, int] = {}
_SHALLOW: Mapping[str, int] = {"depth": 2}
_MORE_TIMM: Mapping[str, Mapping[str, int]] = {
    **dict.fromkeys(("vit_base_patch16_rope_reg1_gap_256", "vit_small_patch16_rope_mixed_224"), _SHALLOW),
    **dict.fromkeys(
        ("vit_small_patch16_rope_ape_224", "eva02_small_patch14_224", "vit_pe_core_tiny_patch16_384"), _SHALLOW
    ),
    **dict.fromkeys(("vit_relpos_small_patch16_224", "samvit_base_patch16_224", "beitv2_base_patch16_224"), _SHALLOW),
    **dict.fromkeys(("vit_small_patch16_224", "flexivit_small", "convit_tiny", "xcit_tiny_12_p8_224"), _SHALLOW),
    **dict.fromkeys(
        ("vit_so150m2_patch16_reg1_gap_256", "vit_small_r26_s32_224", "deit_tiny_distilled_patch16_224"),
        _WHOLE,
    ),
    **dict.fromkeys(("resnetv2_50x1_bit", "mvitv2_tiny", "gcvit_xxtiny", "eca_nfnet_l0", "swinv2_cr_tiny_224"), _WHOLE),
    **dict.fromkeys(
        ("shvit_s1", "fasternet_t0", "mambaout_femto", "efficientvim_m1", "lcnet_050", "nextvit_small"),
        _WHOLE,
    ),
    **dict.fromkeys(
        ("repghostnet_050", "swiftformer_xs", "tresnet_m", "vitamin_small_224", "inception_v4", "xception"),
        _WHOLE,
    ),
    **dict.fromkeys(("nasnetalarge", "legacy_seresnet18", "halonet26t", "lambda_resnet26t", "bat_resnext26ts"), _WHOLE),
    **dict.fromkeys(("botnet26t_256", "gcresnet33ts", "efficientformerv2_s0", "efficientvit_m0", "rdnet_tiny"), _WHOLE),
    **dict.fromkeys(("caformer_s18", "convformer_s18", "hardcorenas_a", "seresnext26d_32x4d", "csatv2"), _WHOLE),
}
_SIZES = {
    "384": 384,
    "halonet": 256,
    "bat_": 256,
    "flexivit": 240,
    "240": 240,
    "256": 256,
    "inception_v3": 299,
    "xception41": 299,
}


def _timm() -> Iterator[Build]:
    for name, options in {**dict.fromkeys(_TIMM, _WHOLE), **_MORE_TIMM}.items():
        size = next((size for part, size in _SIZES.items() if part in name), 224)

        def build(name: str = name, options: Mapping[str, int] = options) -> nn.Module:
            model: nn.Module = importlib.import_module("timm").create_model(name, num_classes=10, **options)
            return model

        yield Build(f"timm/{name}", "timm", build, pictures(size))


_TORCHVISION = (
    "resnet18",
    "mobilenet_v3_small",
    "vit_b_16",
    "swin_t",
    "swin_v2_t",
    "densenet121",
    "shufflenet_v2_x1_0",
    "maxvit_t",
    *("googlenet", "inception_v3", "mnasnet0_5", "squeezenet1_0", "regnet_y_400mf", "convnext_tiny", "alexnet"),
    *(
        "mobilenet_v2",
        "efficientnet_b0",
        "resnext50_32x4d",
        "wide_resnet50_2",
        "fcn_resnet50",
        "lraspp_mobilenet_v3_large",
    ),
    "deeplabv3_mobilenet_v3_large",
)
_FILMED = {"r3d_18": 64, "mc3_18": 64, "r2plus1d_18": 64, "s3d": 224}
"""Models of films of 16 frames, and the sizes of these."""


def _torchvision() -> Iterator[Build]:
    for name in (*_TORCHVISION, *_FILMED):

        def build(name: str = name) -> nn.Module:
            models, options = importlib.import_module("torchvision.models"), {"weights_backbone": None}
            options = options if name.startswith(("fcn", "lraspp", "deeplab")) else {}
            model: nn.Module = models.get_model(name, weights=None, num_classes=10, **options)
            return Only(model, "out", "logits")

        size = _FILMED.get(name, 299 if name == "inception_v3" else 224)
        inputs = random_inputs(x=(1, 3, 16, size, size)) if name in _FILMED else pictures(size)
        yield Build(f"torchvision/{name}", "torchvision", build, inputs)


BUILDS: tuple[Build, ...] = (*_transformers(), *more_transformers(), *_timm(), *_torchvision(), *diffusers_builds())

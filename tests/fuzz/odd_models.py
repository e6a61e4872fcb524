"""Models that are not what a function expects of one: each with inputs that it runs on, if it runs on any."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Odd:
    """A maker of fresh models of one kind, and what they take; ``inputs`` are made anew too."""

    make: Callable[[], Any]
    inputs: Callable[[], Any] = lambda: torch.randn(2, 16)


ODD: dict[str, Odd] = {}


def odd(inputs: Callable[[], Any] = Odd.inputs) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a maker under its name."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        ODD[make.__name__] = Odd(make, inputs)
        return make

    return register


def mlp(width: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 8))


def pictures(channels: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, channels, 6, 6)


def tokens() -> Tensor:
    return torch.randint(8, (2, 5))


class Around(nn.Module):
    """A module that does something of its own with an inner one."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = mlp() if inner is None else inner

    def forward(self, x: Any) -> Any:
        return self.inner(x)


# ------------------------------------------------------------------------------------------------- few weights or none


@odd()
def empty():
    return nn.Sequential()


@odd()
def without_parameters():
    return nn.ReLU()


@odd()
def without_forward():
    return nn.ModuleDict({"a": nn.Linear(16, 8)})


@odd()
def only_buffers():
    model = nn.Identity()
    model.register_buffer("weight", torch.randn(16, 16))
    model.register_buffer("steps", torch.tensor(3))
    return model


@odd()
def only_vectors():
    return nn.Sequential(nn.LayerNorm(16), nn.PReLU())


@odd()
def a_scalar():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.weight * x

    return Scaled()


@odd(lambda: torch.randn(2, 0))
def no_inputs():
    return nn.Linear(0, 8)


@odd()
def no_outputs():
    return nn.Linear(16, 0)


@odd()
def weights_that_are_none():
    model = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16, elementwise_affine=False), nn.ReLU())
    model[2].register_parameter("weight", None)
    return model


@odd()
def a_linear_without_weight():
    class Bare(nn.Linear):
        def forward(self, x):
            return x if self.weight is None else super().forward(x)

    model = Bare(16, 16)
    model.weight = None
    return model


@odd()
def a_weight_that_is_no_tensor():
    class Named(Around):
        weight = "heavy"

    return Named()


# ------------------------------------------------------------------------------------------- raw and packed parameters


@odd()
def parameter_list():
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([nn.Parameter(torch.randn(16, 16)) for _ in range(2)])
            self.named = nn.ParameterDict({"out": nn.Parameter(torch.randn(16, 8))})

        def forward(self, x):
            for weight in self.weights:
                x = x @ weight
            return x @ self.named["out"]

    return Listed()


@odd(lambda: torch.randn(2, 3, 16))
def raw_einsum():
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Parameter(torch.randn(16, 4, 8))

        def forward(self, x):
            return torch.einsum("bth,hnd->btnd", x, self.q)

    return Projected()


@odd()
def packed_experts():
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(16, 3)
            self.experts = nn.Parameter(torch.randn(3, 16, 8))

        def forward(self, x):
            return torch.einsum("be,bi,eio->bo", self.router(x).softmax(-1), x, self.experts)

    return Experts()


@odd(tokens)
def embedding():
    return nn.Embedding(8, 16)


@odd(lambda: torch.randn(2, 5, 16))
def lstm():
    return nn.LSTM(16, 8, batch_first=True)


@odd(lambda: (torch.randn(2, 16), torch.randn(2, 16)))
def bilinear():
    return nn.Bilinear(16, 16, 4)


# -------------------------------------------------------------------------------------------------- not yet or elsewhere


@odd()
def lazy():
    return nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(8))


@odd(pictures(4))
def lazy_convolution():
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d())


@odd()
def meta():
    with torch.device("meta"):
        return mlp()


@odd()
def half_on_meta():
    model = mlp()
    model[2].to("meta")
    return model


# -------------------------------------------------------------------------------------------------------------- dtypes


@odd(lambda: torch.randn(2, 16, dtype=torch.complex64))
def complex_numbers():
    return nn.Sequential(nn.Linear(16, 16, dtype=torch.complex64), nn.Linear(16, 8, dtype=torch.complex64))


@odd()
def integers():
    class Integer(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight.to(x.dtype))

    model = Integer(16, 16, bias=False)
    model.weight = nn.Parameter(torch.randint(-8, 8, (16, 16), dtype=torch.int8), requires_grad=False)
    return nn.Sequential(model, nn.Linear(16, 8))


@odd()
def float8():
    class Float8(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight.to(x.dtype))

    model = Float8(16, 16, bias=False)
    model.weight = nn.Parameter(model.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    return nn.Sequential(model, nn.Linear(16, 8))


@odd(lambda: torch.randn(2, 16, dtype=torch.bfloat16))
def bfloat16():
    return mlp().bfloat16()


@odd(lambda: torch.randn(2, 16, dtype=torch.float16))
def half():
    return mlp().half()


@odd()
def mixed_dtypes():
    class Mixed(Around):
        def forward(self, x):
            return self.inner[2](self.inner[0](x).double())

    model = Mixed()
    model.inner[2].double()
    return model


# -------------------------------------------------------------------------------------------------------------- values


@odd()
def not_a_number():
    model = mlp()
    model[0].weight.data[0, 0] = float("nan")
    return model


@odd()
def infinite():
    model = mlp()
    model[2].weight.data[0, 0] = float("inf")
    return model


@odd()
def all_zero():
    model = mlp()
    for parameter in model.parameters():
        parameter.data.zero_()
    return model


# -------------------------------------------------------------------------------------------- sharing, views and memory


@odd()
def shared_three_times():
    layers = [nn.Linear(16, 16) for _ in range(3)]
    layers[1].weight = layers[2].weight = layers[0].weight
    return nn.Sequential(*layers)


@odd()
def one_module_twice():
    layer = nn.Linear(16, 16)
    return nn.Sequential(layer, nn.ReLU(), layer)


@odd()
def cyclic():
    model = Around()
    model.inner[0].add_module("parent", model)
    return model


@odd()
def views_of_one_tensor():
    base = torch.randn(24, 16)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8))
    model[0].weight, model[1].weight = nn.Parameter(base[:16]), nn.Parameter(base[16:])
    return model


@odd()
def expanded():
    model = mlp()
    model[0].weight = nn.Parameter(torch.randn(1, 16).expand(16, 16))
    return model


@odd()
def not_contiguous():
    model = mlp()
    model[0].weight = nn.Parameter(torch.randn(16, 16).t())
    return model


@odd()
def inference_tensors():
    with torch.inference_mode():
        return mlp()


@odd()
def not_a_leaf():
    model = mlp()
    base = nn.Parameter(torch.randn(16, 16))
    del model[0].weight
    model[0].weight = base * 2
    return model


@odd()
def sparse_tensor():
    class Sparse(Around):
        def __init__(self) -> None:
            super().__init__(nn.Linear(16, 8))
            self.weight = nn.Parameter(torch.eye(16).to_sparse())

        def forward(self, x):
            return self.inner(torch.sparse.mm(self.weight, x.t()).t())

    return Sparse()


@odd()
def sparse_linear():
    model = nn.Linear(16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # beta, says torch
        model.weight = nn.Parameter(torch.eye(16).to_sparse_csr())
    return model


class Kind(Tensor):
    """A subclass that changes nothing."""


@odd()
def tensor_subclass():
    model = mlp()
    model[0].weight = nn.Parameter(torch.randn(16, 16).as_subclass(Kind))
    return model


# --------------------------------------------------------------------------------------------------- computed and pruned


@odd()
def weight_norm():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)), nn.Linear(16, 8))


@odd()
def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(16, 16)), nn.Linear(16, 8))


@odd()
def spectral_norm():
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16)), nn.Linear(16, 8))


@odd()
def pruned_by_torch():
    from torch.nn.utils import prune

    model = mlp()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


@odd()
def frozen():
    return mlp().requires_grad_(False)


# ---------------------------------------------------------------------------------------------------- wrapped, compiled


@odd()
def scripted():
    return torch.jit.script(mlp())


@odd()
def traced():
    return torch.jit.trace(mlp(), torch.randn(2, 16))


@odd()
def partly_scripted():
    return nn.Sequential(torch.jit.script(nn.Linear(16, 16)), nn.Linear(16, 8))


@odd()
def compiled():
    return torch.compile(mlp(), backend="eager")


@odd()
def exported():
    return torch.export.export(mlp(), (torch.randn(2, 16),)).module()


@odd()
def symbolically_traced():
    return torch.fx.symbolic_trace(mlp())


@odd()
def data_parallel():
    return nn.DataParallel(mlp())


@odd()
def averaged():
    return torch.optim.swa_utils.AveragedModel(mlp())


@odd()
def dynamically_quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear}, dtype=torch.qint8)


@odd()
def torchao_int8():
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = mlp()
    quantize_(model, Int8WeightOnlyConfig())
    return model


# --------------------------------------------------------------------------------------------------------------- layers


@odd(pictures(1))
def one_channel_convolution():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))


@odd(pictures(8))
def grouped_and_depthwise():
    return nn.Sequential(nn.Conv2d(8, 16, 3, groups=2), nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16))


@odd(pictures(8))
def transposed():
    return nn.Sequential(nn.ConvTranspose2d(8, 8, 3, stride=2, groups=2), nn.BatchNorm2d(8, track_running_stats=False))


@odd(lambda: (torch.randn(2, 5, 16), torch.randn(2, 7, 8), torch.randn(2, 7, 8)))
def attention():
    return nn.MultiheadAttention(16, 2, kdim=8, vdim=8, batch_first=True)


@odd(lambda: torch.randn(2, 5, 16))
def encoder_layer():
    return nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)


# -------------------------------------------------------------------------------------------------------------- forward


@odd()
def in_place():
    class InPlace(Around):
        def forward(self, x):
            return nn.functional.relu_(self.inner(x.mul_(2)))

    return InPlace()


@odd(lambda: {"x": torch.randn(2, 16), "double": True, "label": None})
def flags_and_dicts():
    class Flags(Around):
        def forward(self, x, *, double=False, label=None):
            return {"y": self.inner(x) * (2 if double else 1), "loss": None, "name": "flags"}

    return Flags()


@odd()
def answers_nothing():
    class Silent(Around):
        def forward(self, x):
            self.inner(x)

    return Silent()


@odd()
def raises():
    class Raising(Around):
        def forward(self, x):
            raise RuntimeError("not today")

    return Raising()


@odd(lambda: torch.randn(2, 5))
def inputs_that_do_not_fit():
    return mlp()


@odd()
def random_outputs():
    class Random(Around):
        def forward(self, x):
            return nn.functional.dropout(self.inner(x), 0.5, training=True)

    return Random()


@odd()
def control_flow():
    class Branching(Around):
        def forward(self, x):
            return self.inner(x) if x.sum() > 0 else self.inner(-x).tolist()

    return Branching()


@odd()
def without_gradients():
    class Detached(Around):
        @torch.no_grad()
        def forward(self, x):
            return self.inner(x)

    return Detached()


@odd()
def an_output_of_its_own():
    class Answer:
        def __init__(self, logits):
            self.logits = logits

    class Answering(Around):
        def forward(self, x):
            return Answer(self.inner(x))

    return Answering()


# --------------------------------------------------------------------------------------------------------- Python tricks


@odd()
def not_to_be_copied():
    class Single(Around):
        def __deepcopy__(self, memo):
            raise NotImplementedError("there is one of me")

    return Single()


@odd()
def passes_attributes_on():
    class Passing(Around):
        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inner"), name)

    return Passing()


@odd()
def has_every_attribute():
    class Yes(Around):
        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return self

    return Yes()


@odd()
def its_own_original():
    model = mlp()
    model.__dict__["_orig_mod"] = model
    return model


@odd()
def long_and_false():
    class Container(Around):
        def __len__(self):
            return 0

        def __iter__(self):
            raise RuntimeError("not to be walked")

    return Container()


@odd()
def a_state_dict_of_its_own():
    class Own(Around):
        def state_dict(self, *args, **kwargs):
            return {"everything": "elsewhere"}

    return Own()


@odd()
def hooks_that_raise():
    def hook(module, args):
        raise LookupError("a hook of the user's")

    model = mlp()
    model[0].register_forward_pre_hook(hook)
    return model


@odd()
def modes_that_cannot_be_set():
    class Always(Around):
        def train(self, mode=True):
            raise RuntimeError("this model is for inference only")

    return Always()


@odd()
def names_with_patterns():
    model = nn.Module()
    model.add_module("a*[0]", nn.Linear(16, 16))
    model.add_module("weight", nn.Linear(16, 8))
    model.forward = lambda x: model.weight(getattr(model, "a*[0]")(x))
    return model

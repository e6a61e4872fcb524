"""Optimizers that wrap others or keep a second copy of the weights, as public ones do, in a few lines each."""

from __future__ import annotations

from collections import defaultdict

import torch


class Bare(torch.optim.Optimizer):
    """As accelerate's: no ``super().__init__``, so PyTorch never calls its hooks."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    def step(self, closure=None):
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


class Delegating:
    """As Lightning's: no Optimizer at all, whatever it lacks is asked of the one inside."""

    def __init__(self, optimizer):
        self._optimizer = optimizer

    optimizer = property(lambda self: self._optimizer)

    def __getattr__(self, name):
        return getattr(self._optimizer, name)  # endless where it is unpickled: it cannot be copied

    def step(self, closure=None):
        return self._optimizer.step(closure)


class Proper(torch.optim.Optimizer):
    """As SAM: a real Optimizer that has hooks of its own around the steps of another."""

    def __init__(self, optimizer):
        super().__init__(optimizer.param_groups, {})
        self.base_optimizer = optimizer
        self.param_groups = optimizer.param_groups

    def step(self, closure=None):
        return self.base_optimizer.step(closure)


class Container:
    """As torchtitan's: several at once, each with parameters of its own."""

    def __init__(self, *optimizers):
        self.optimizers = list(optimizers)

    def step(self, closure=None):
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none=True):
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)


class SGDScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD (Defazio et al. 2024): parameters are y = (1 - beta) z + beta x, and ``eval`` makes them x."""

    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                z = self.state[p].setdefault("z", p.clone())
                x = (p - (1 - group["beta"]) * z) / group["beta"]
                z.sub_(p.grad, alpha=group["lr"])
                x.lerp_(z, 1 / group["k"])
                p.copy_(x.lerp(z, 1 - group["beta"]))

    @torch.no_grad()
    def eval(self):
        for group in self.param_groups:
            for p in group["params"]:
                if "z" in self.state[p]:
                    p.lerp_(self.state[p]["z"], 1 - 1 / group["beta"])


class Lookahead(torch.optim.Optimizer):
    """Lookahead (Zhang et al. 2019) with slow weights in a state of its own; as a wrapper without hooks."""

    def __init__(self, optimizer, k=2, alpha=0.5):
        self.optimizer, self.k, self.alpha, self.count = optimizer, k, alpha, 0
        self.param_groups = optimizer.param_groups
        self.state = defaultdict(dict)
        for p in self._parameters():
            self.state[p]["cached_params"] = p.detach().clone()

    def _parameters(self):
        return [p for group in self.param_groups for p in group["params"]]

    def _slow(self, p):
        return self.state[p]["cached_params"]

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure=None):
        self.optimizer.step()
        self.count += 1
        if self.count % self.k == 0:
            for p in self._parameters():
                self._slow(p).lerp_(p, self.alpha)
                p.copy_(self._slow(p))


class ListedLookahead(Lookahead):
    """The same with slow weights in lists like the groups, as its first public version has them."""

    def __init__(self, optimizer, k=2, alpha=0.5):
        super().__init__(optimizer, k, alpha)
        self.state = optimizer.state
        self.slow_weights = [[p.detach().clone() for p in group["params"]] for group in self.param_groups]

    def _slow(self, p):
        return next(
            slow
            for group, slows in zip(self.param_groups, self.slow_weights)
            for each, slow in zip(group["params"], slows)
            if each is p
        )


class Mastered(torch.optim.Optimizer):
    """SGD with momentum on float32 masters in its state, copied into the parameters after each step."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"]):
            state = self.state[p]
            master = state.setdefault("master_param", p.float().clone())
            momentum = state.setdefault("momentum_buffer", torch.zeros_like(master))
            momentum.mul_(0.9).add_(p.grad.float())
            master.sub_(momentum, alpha=self.param_groups[0]["lr"])
            p.copy_(master)


class Averaging(torch.optim.SGD):
    """SGD that keeps a Polyak average under a name that nobody knows."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p].setdefault("mine", p.clone()).lerp_(p, 0.5)
        return loss

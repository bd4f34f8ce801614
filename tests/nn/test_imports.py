"""Import statements of real model code, each run for torch.nn and for fnn.nn: the names are there, and of the same kind."""

import inspect
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import assert_close, normal, tensor, torch

import fnn.nn as nn

STATEMENTS = """
import torch.nn as nn
from torch import nn
from torch.nn import functional as F
import torch.nn.functional as F
import torch.nn.init as init
import torch.nn.utils.prune as prune
import torch.nn.utils.parametrize as parametrize
from torch.nn import Module, Parameter, Buffer, Sequential, ModuleList, ModuleDict, ParameterList, ParameterDict
from torch.nn import init, utils, parallel, parameter, modules
from torch.nn import Linear, Conv2d, LayerNorm, BatchNorm2d, MultiheadAttention, TransformerEncoder, TransformerEncoderLayer
from torch.nn import grad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.common_types import _size_1_t, _size_2_t, _size_3_t, _size_any_t, _size_2_opt_t, _ratio_2_t, _maybe_indices_t
from torch.nn.functional import _Reduction
from torch.nn.functional import _canonical_mask, _none_or_dtype, _mha_shape_check
from torch.nn.functional import _in_projection, _in_projection_packed
from torch.nn.functional import _get_softmax_dim, _verify_batch_size
from torch.nn.functional import _pair, _single, _triple
from torch.nn.functional import scaled_dot_product_attention, linear, softmax, pad, dropout, grid_sample, interpolate
from torch.nn.functional import multi_head_attention_forward
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.nn.init import _calculate_fan_in_and_fan_out, _calculate_correct_fan, calculate_gain
from torch.nn.init import _no_grad_normal_, _no_grad_uniform_, _no_grad_trunc_normal_, _no_grad_fill_, _no_grad_zero_
from torch.nn.init import trunc_normal_, xavier_uniform_, kaiming_uniform_, orthogonal_, constant_, normal_, zeros_, ones_
from torch.nn.modules import Module, Conv2d, Linear, Sequential
from torch.nn.modules.activation import MultiheadAttention, ReLU
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase, BatchNorm2d, SyncBatchNorm
from torch.nn.modules.container import Sequential, ModuleList
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd, Conv2d
from torch.nn.modules.dropout import _DropoutNd, Dropout
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.linear import Linear, NonDynamicallyQuantizableLinear
from torch.nn.modules.loss import _Loss, _WeightedLoss, CrossEntropyLoss
from torch.nn.modules.module import Module, _IncompatibleKeys, _addindent
from torch.nn.modules.module import register_module_backward_hook, register_module_full_backward_hook
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.modules.normalization import _shape_t, LayerNorm
from torch.nn.modules.padding import _ReflectionPadNd, _ReplicationPadNd, _ConstantPadNd
from torch.nn.modules.pooling import _MaxPoolNd, _AvgPoolNd, _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _LPPoolNd, _MaxUnpoolNd
from torch.nn.modules.rnn import RNNBase, RNNCellBase, LSTM, apply_permutation, _apply_permutation
from torch.nn.modules.transformer import _get_clones, _get_activation_fn, _generate_square_subsequent_mask
from torch.nn.modules.upsampling import Upsample
from torch.nn.modules.utils import _ntuple, _single, _pair, _triple, _quadruple
from torch.nn.modules.utils import _reverse_repeat_tuple, _list_with_default, consume_prefix_in_state_dict_if_present
from torch.nn.parallel import DataParallel
from torch.nn.parameter import Parameter, Buffer, UninitializedParameter, UninitializedBuffer, is_lazy
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, parameters_to_vector, vector_to_parameters
from torch.nn.utils import fuse_conv_bn_eval, weight_norm, spectral_norm, remove_weight_norm, remove_spectral_norm
from torch.nn.utils import skip_init, stateless, parametrize, parametrizations, prune, rnn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations
from torch.nn.utils.prune import BasePruningMethod, L1Unstructured, global_unstructured
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormStateDictHook, spectral_norm
from torch.nn.utils.stateless import functional_call
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm
""".strip().splitlines()


def imported(statement, library):
    names = {}
    exec(statement if library == "torch" else statement.replace("torch", "fnn"), names)
    del names["__builtins__"]
    return names


def kind(value):
    if isinstance(value, type):
        return "class"
    return "function" if callable(value) and not inspect.ismodule(value) else type(value).__name__


@pytest.mark.parametrize("statement", STATEMENTS)
def test_statements(statement):
    ours, theirs = imported(statement, "fnn"), imported(statement, "torch")
    assert {name: kind(value) for name, value in ours.items()} == {name: kind(value) for name, value in theirs.items()}


ISINSTANCE = [
    (cls, base)
    for bases, classes in {
        "modules.batchnorm._BatchNorm modules.batchnorm._NormBase": "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm",
        "modules.batchnorm._NormBase modules.instancenorm._InstanceNorm": "InstanceNorm1d InstanceNorm2d InstanceNorm3d",
        "modules.batchnorm._BatchNorm LazyBatchNorm2d modules.lazy.LazyModuleMixin": "LazyBatchNorm2d InstanceNorm2d LayerNorm",
        "modules.conv._ConvNd Conv2d": "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d LazyConv2d Linear",
        "modules.conv._ConvTransposeNd": "Conv2d ConvTranspose1d ConvTranspose2d LazyConvTranspose2d",
        "modules.dropout._DropoutNd Dropout": "Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout",
        "modules.loss._Loss modules.loss._WeightedLoss": "CrossEntropyLoss NLLLoss MSELoss BCELoss BCEWithLogitsLoss",
        "modules.pooling._MaxPoolNd": "MaxPool1d MaxPool2d MaxPool3d AvgPool2d",
        "modules.pooling._AvgPoolNd": "AvgPool1d AvgPool2d AvgPool3d",
        "modules.pooling._AdaptiveAvgPoolNd": "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool2d",
        "modules.padding._ReflectionPadNd": "ReflectionPad1d ReflectionPad2d ZeroPad2d",
        "modules.padding._ConstantPadNd ConstantPad2d": "ConstantPad1d ConstantPad2d ZeroPad2d",
        "RNNBase": "RNN LSTM GRU LSTMCell",
        "RNNCellBase": "RNNCell LSTMCell GRUCell",
        "Linear": "Linear LazyLinear Bilinear modules.linear.NonDynamicallyQuantizableLinear Identity",
        "Hardtanh": "ReLU6 ReLU Hardtanh",
        "Upsample": "UpsamplingBilinear2d UpsamplingNearest2d",
        "Module": "Sequential ModuleList ModuleDict ParameterList ParameterDict Identity Softmax",
        "parameter.UninitializedParameter Parameter": "Parameter UninitializedParameter",
    }.items()
    for base in bases.split()
    for cls in classes.split()
]


@pytest.mark.parametrize(("cls", "base"), ISINSTANCE)
def test_what_is_a_subclass_of_what(cls, base):
    def look(path, lib):
        for name in path.split("."):
            lib = getattr(lib, name)
        return lib

    assert issubclass(look(cls, nn), look(base, nn)) == issubclass(look(cls, torch.nn), look(base, torch.nn))


@pytest.mark.parametrize(
    "call",
    [
        lambda utils: utils._reverse_repeat_tuple((1, 2, 3), 2),
        lambda utils: utils._list_with_default([None, 3], [4, 5, 6]),
        lambda utils: utils._list_with_default(7, [4, 5, 6]),
        lambda utils: utils._list_with_default([None, 3], [4, 5]),
        lambda utils: utils._list_with_default((None,), (8, 9)),
    ],
)
def test_helpers_of_modules_utils(call):
    results = []
    for lib in (nn, torch.nn):
        try:
            results.append(call(lib.modules.utils))
        except ValueError:
            results.append(ValueError)
    assert results[0] == results[1]


@pytest.mark.parametrize("prefix", ["module.", "a.b."])
def test_a_prefix_of_a_state_dict_is_consumed(prefix):
    results = []
    for lib in (nn, torch.nn):
        state = lib.ModuleDict({"module": lib.Sequential(lib.Linear(1, 1), lib.ReLU()), "other": lib.Linear(1, 1)}).state_dict()
        lib.modules.utils.consume_prefix_in_state_dict_if_present(state, prefix)
        results.append((list(state), list(state._metadata)))
        plain = OrderedDict(dict.fromkeys([prefix + "x", "y"], 1))
        lib.modules.utils.consume_prefix_in_state_dict_if_present(plain, prefix)
        results[-1] += (list(plain),)
    assert results[0] == results[1]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "elementwise_mean", "other"])
def test_the_enum_of_reductions(reduction):
    results = []
    for lib in (nn, torch.nn):
        try:
            with pytest.warns(match="elementwise_mean") if reduction == "elementwise_mean" else pytest.MonkeyPatch.context():
                results.append(lib.functional._Reduction.get_enum(reduction))
        except ValueError:
            results.append(ValueError)
    assert results[0] == results[1]


@pytest.mark.parametrize("arguments", [(None, None), (False, None), (True, False), (None, True), (False, False)])
@pytest.mark.filterwarnings("error")
def test_reductions_by_older_arguments(arguments):
    ours, theirs = nn.functional._Reduction, torch.nn.functional._Reduction
    assert ours.legacy_get_string(*arguments, emit_warning=False) == theirs.legacy_get_string(*arguments, emit_warning=False)
    assert ours.legacy_get_enum(*arguments, emit_warning=False) == theirs.legacy_get_enum(*arguments, emit_warning=False)
    for lib in (ours, theirs):
        with pytest.raises(UserWarning, match="size_average and reduce args will be deprecated"):
            lib.legacy_get_string(*arguments)


def test_permutations_of_states():
    x, order = normal(2, 3, 1), [2, 0, 1]
    with pytest.warns(FutureWarning, match="is deprecated, please use"):
        ours = nn.modules.rnn.apply_permutation(x, jnp.array(order))
    with pytest.warns(FutureWarning, match="is deprecated, please use"):
        theirs = torch.nn.modules.rnn.apply_permutation(tensor(x), torch.tensor(order))
    assert_close(ours, theirs)
    assert_close(
        nn.modules.rnn._apply_permutation(x, jnp.array([1, 0]), 0),
        torch.nn.modules.rnn._apply_permutation(tensor(x), torch.tensor([1, 0]), 0),
    )


def test_private_functions_of_init():
    weight = nn.Parameter(jnp.zeros((4, 3, 2)))
    for mode in ("fan_in", "FAN_OUT"):
        assert nn.init._calculate_correct_fan(weight, mode) == torch.nn.init._calculate_correct_fan(torch.zeros(4, 3, 2), mode)
    for lib, array in ((nn, weight), (torch.nn, torch.zeros(4, 3, 2))):
        with pytest.raises(ValueError, match="Mode fan not supported"):
            lib.init._calculate_correct_fan(array, "fan")
    assert nn.init._no_grad_fill_(weight, 2.0) is weight
    assert weight.min() == 2.0
    assert nn.init._no_grad_trunc_normal_(weight, 0.0, 1.0, -0.5, 0.5).max() <= 0.5
    assert nn.init._no_grad_uniform_(weight, 1.0, 2.0).min() >= 1.0
    assert abs(nn.init._no_grad_normal_(weight, 9.0, 0.1)).min() > 5.0
    assert not nn.init._no_grad_zero_(weight).any()


def test_private_parts_of_attention():
    x, other = normal(3, 2, 4), normal(5, 2, 4)
    w, b = normal(12, 4), normal(12)
    for operands in ((x, x, x), (x, other, other), (x, other, other + 1)):
        ours = nn.functional._in_projection_packed(*map(jnp.asarray, operands), nn.Parameter(w), b)
        theirs = torch.nn.functional._in_projection_packed(*map(tensor, operands), tensor(w), tensor(b))
        separate = nn.functional._in_projection(*operands, *np.split(w, 3), *np.split(b, 3))
        for own, apart, their in zip(ours, separate, theirs, strict=True):
            assert_close(own, their)
            assert_close(apart, their)
    for lib, make in ((nn, jnp.asarray), (torch.nn, tensor)):
        check = lib.functional._mha_shape_check
        assert check(make(x), make(x), make(x), None, None, 2) is True
        assert check(make(x[0]), make(x[0]), make(x[0]), None, None, 2) is False
        with pytest.raises(AssertionError):
            check(make(x), make(x[0]), make(x), None, None, 2)
        with pytest.raises(AssertionError, match="only bool and floating types"):
            lib.functional._canonical_mask(make(np.ones(2, np.int32)), "mask", None, "", make(x).dtype)
        with pytest.warns(UserWarning, match="Support for mismatched mask and other is deprecated"):
            lib.functional._canonical_mask(make(np.ones(2, bool)), "mask", make(x).dtype, "other", make(x).dtype)
        assert lib.functional._none_or_dtype(None) is None
        assert lib.functional._none_or_dtype(make(x)) == make(x).dtype
    mask = np.array([True, False])
    ours = nn.functional._canonical_mask(mask, "mask", jnp.float32, "other", jnp.float32, check_other=False)
    assert_close(ours, torch.nn.functional._canonical_mask(tensor(mask), "mask", None, "", torch.float32))


def test_other_private_functions():
    for lib in (nn, torch.nn):
        with pytest.warns(UserWarning, match="Implicit dimension choice for softmax has been deprecated"):
            assert [lib.functional._get_softmax_dim("softmax", ndim, 3) for ndim in range(5)] == [0, 0, 1, 0, 1]
        lib.functional._verify_batch_size([2, 3])
        for size in ([1, 3], [1, 3, 1, 1], [1, 0]):
            with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
                lib.functional._verify_batch_size(size)

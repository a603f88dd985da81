"""Memory asked for ahead of its use, by compiled loops: else a look-up waits for it."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def prefetch(_context: Any, array: Any, _i: Any, _j: Any) -> Any:
    """Ask for the cache line of ``array[i, j]`` without waiting for it (LLVM's `llvm.prefetch`)."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        view = context.make_array(kind)(context, builder, arguments[0])
        zeros = [context.get_constant(types.intp, 0)] * (kind.ndim - 2)
        place = cgutils.get_item_pointer(context, builder, kind, view, [*arguments[1:], *zeros])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0i8")
        for_reading, keep, data = number(0), number(3), number(1)
        builder.call(fetch, [builder.bitcast(place, byte), for_reading, keep, data])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), code

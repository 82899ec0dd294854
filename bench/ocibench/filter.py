"""The floor's seccomp program: the rules of the bundle as a balanced search over ranges of numbers.

No runtime is told of it: they get the rules and compile them as they do. That it says the same as
what libseccomp makes of the same rules is proven for every number of every ABI, and for calls whose
arguments count with values at, below and above each that a rule names.
"""
import ctypes, os, re, struct, sys, tempfile

X64, X86, X32_BIT = 0xC000003E, 0x40000003, 0x40000000
HEADERS = '/usr/include/x86_64-linux-gnu/asm/'
LOAD, MASK, JUMP, EQUAL, ABOVE, AT_LEAST, RETURN = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06
OPERATORS = ['NE', 'LT', 'LE', 'EQ', 'GE', 'GT', 'MASKED_EQ']  # in the order of libseccomp, from 1
KILL = 0


def numbers(header):
    """Names of the calls of an ABI and their numbers, from the kernel's header."""
    found = {}
    with open(HEADERS + header) as file:
        for name, bit, number in re.findall(r'#define __NR_(\w+) \(?(__X32_SYSCALL_BIT \+ )?(\d+)',
                                            file.read()):
            found[name] = int(number) + (X32_BIT if bit else 0)
    return found


def action(rule):
    kind = rule['action'][9:]
    return {'ALLOW': 0x7FFF0000, 'ERRNO': 0x00050000 | rule.get('errnoRet', 1)}[kind]


def verdicts(seccomp, names):
    """What each number of an ABI gets: an action or a list of (conditions, action). As with
    libseccomp the first rule without conditions stands."""
    found = {}
    for rule in seccomp['syscalls']:
        for number in (names[name] for name in rule['names'] if name in names):
            if rule.get('args'):
                if not isinstance(found.get(number), int):
                    found.setdefault(number, []).append((rule['args'], action(rule)))
            elif not isinstance(found.get(number), int):
                found[number] = action(rule)
    return found


def condition(arg, wide, end):
    """Instructions that fall through where the argument is as wanted, else jump to `end(left)`,
    `left` being those that come behind. Calls of the 32-bit ABIs count by the low half."""
    low, high = 16 + 8 * arg['index'], 20 + 8 * arg['index']
    value, mask = arg['value'], (1 << 64) - 1
    operator = arg['op'][9:]
    if operator == 'MASKED_EQ':
        value, mask = arg['valueTwo'], arg['value']
    if operator not in ('EQ', 'NE', 'MASKED_EQ'):
        sys.exit(f'bench: the seccomp profile has a comparison {operator}')
    code = []
    for at, shift in ((high, 32), (low, 0)) if wide else ((low, 0),):
        part = mask >> shift & 0xFFFFFFFF
        if part == 0 and operator == 'MASKED_EQ':
            continue
        code.append((LOAD, 0, 0, at))
        if part != 0xFFFFFFFF:
            code.append((MASK, 0, 0, part))
        code.append((EQUAL, 'same', 'differs', value >> shift & 0xFFFFFFFF))
    ready = []
    for at, (kind, yes, no, k) in enumerate(code):
        if kind == EQUAL:
            left, last = len(code) - at - 1, at == len(code) - 1
            if operator == 'NE':  # a half that differs is enough: on to what follows
                yes, no = (end(left) if last else 0), left
            else:
                yes, no = 0, end(left)
        ready.append((kind, yes, no, k))
    return ready


def leaf(verdict, default, wide):
    if isinstance(verdict, int):
        return [(RETURN, 0, 0, verdict)]
    code = []
    for conditions, then in verdict:
        parts = [(RETURN, 0, 0, then)]
        for arg in reversed(conditions):
            behind = len(parts)
            parts = condition(arg, wide, lambda left: left + behind) + parts
        code += parts
    return code + [(RETURN, 0, 0, default)]


def tree(ranges, default, wide):
    """Code for ranges [(first number, verdict)], the number being in the accumulator."""
    if len(ranges) == 1:
        first, verdict = ranges[0]
        return leaf(verdict, default, wide and first < X32_BIT)
    middle = len(ranges) // 2
    below, above = (tree(part, default, wide) for part in (ranges[:middle], ranges[middle:]))
    if len(below) < 256:
        return [(AT_LEAST, len(below), 0, ranges[middle][0]), *below, *above]
    return [(AT_LEAST, 0, 1, ranges[middle][0]), (JUMP, 0, 0, len(below)), *below, *above]


def ranges(found, default, first):
    result = [(first, default)]
    for number in range(first, first + 1024):
        verdict = found.get(number, default)
        if verdict != result[-1][1]:
            if result[-1][0] == number:
                result.pop()
            result.append((number, verdict))
    return result


def compiled(seccomp):
    default = action({'action': seccomp['defaultAction'],
                      'errnoRet': seccomp.get('defaultErrnoRet', 1)})
    abis = {key: verdicts(seccomp, numbers(f'unistd_{key}.h')) for key in ('64', '32', 'x32')}
    native = ranges(abis['64'], default, 0) + ranges(abis['x32'], default, X32_BIT)
    number = [(LOAD, 0, 0, 0)]
    native = number + tree(native, default, True)
    compat = number + tree(ranges(abis['32'], default, 0), default, False)
    program = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, X64), (JUMP, 0, 0, len(native)), *native,
               (EQUAL, 1, 0, X86), (RETURN, 0, 0, KILL), *compat]
    prove(program, seccomp, abis)
    return program


def interpreted(program, arch, number, args):
    at, value = 0, 0
    while True:
        code, yes, no, k = program[at]
        at += 1
        if code == RETURN:
            return k
        if code == LOAD:
            value = (number if k == 0 else arch if k == 4 else
                     args[(k - 16) // 8] >> (32 if k % 8 else 0) & 0xFFFFFFFF)
        elif code == MASK:
            value &= k
        elif code == JUMP:
            at += k
        else:
            holds = {EQUAL: value == k, ABOVE: value > k, AT_LEAST: value >= k,
                     0x45: bool(value & k)}[code]
            at += yes if holds else no


def reference(seccomp):
    """The program that libseccomp makes of the rules, as runtimes ask it to."""
    class Comparison(ctypes.Structure):
        _fields_ = [('index', ctypes.c_uint), ('operator', ctypes.c_int),
                    ('a', ctypes.c_uint64), ('b', ctypes.c_uint64)]
    library = ctypes.CDLL('libseccomp.so.2')
    library.seccomp_init.restype = ctypes.c_void_p
    default = action({'action': seccomp['defaultAction'],
                      'errnoRet': seccomp.get('defaultErrnoRet', 1)})
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
    for arch in (X86, 0x4000003E):
        library.seccomp_arch_add(context, ctypes.c_uint32(arch))
    for rule in seccomp['syscalls']:
        if action(rule) == default:
            continue
        args = rule.get('args') or []
        array = (Comparison * max(1, len(args)))(*[
            (a['index'], OPERATORS.index(a['op'][9:]) + 1, a['value'], a.get('valueTwo', 0))
            for a in args])
        for name in rule['names']:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number != -1:
                done = library.seccomp_rule_add_array(
                    context, ctypes.c_uint32(action(rule)), number, len(args), array)
                if done:
                    sys.exit(f'bench: libseccomp refuses a rule for {name}: {done}')
    with tempfile.TemporaryFile() as file:
        if library.seccomp_export_bpf(context, file.fileno()):
            sys.exit('bench: libseccomp exports nothing')
        file.seek(0)
        return [struct.unpack('HBBI', part) for part in iter(lambda: file.read(8), b'')]


def prove(program, seccomp, abis):
    """Says the same as libseccomp's program, or ends the bench."""
    theirs, plain = reference(seccomp), [0] * 6
    values = {}
    for rule in seccomp['syscalls']:
        for arg in rule.get('args') or []:
            for value in (arg['value'], arg.get('valueTwo', 0)):
                at = values.setdefault(arg['index'], {0, (1 << 64) - 1})
                at.update(v & (1 << 64) - 1 for v in
                          (value - 1, value, value + 1, value | 1 << 32, value << 32))
    for arch, first, key in ((X64, 0, '64'), (X64, X32_BIT, 'x32'), (X86, 0, '32')):
        for number in range(first, first + 1000):
            cases = [plain]
            if not isinstance(abis[key].get(number, 0), int):
                cases += [plain[:i] + [v] + plain[i + 1:] for i in values for v in values[i]]
            for args in cases:
                mine = interpreted(program, arch, number, args)
                if mine != (libseccomp := interpreted(theirs, arch, number, args)):
                    sys.exit(f'bench: the floor\'s filter is wrong: ABI {key}, call {number}, '
                             f'arguments {args}: {mine:#x}, libseccomp {libseccomp:#x}')

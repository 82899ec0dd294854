// Where `bulkhead-oci` begins: before the C library's start (41 CPUID instructions, which a virtual
// machine traps) and the program's own addresses are filled in. For a command that enters
// containers it does what `sealed::ensure` does, so that all of that happens once, in the program
// executed from the read-only mount. Whatever does not go well is left to `ensure`, which can say so.
//
// On entry rdx is for `_start`; the stack has argc, argv, a zero, the environment. System calls keep
// all registers but rax, rcx and r11.

    .section .text.bulkhead_first, "ax", @progbits
    .globl bulkhead_first
    .type bulkhead_first, @function
bulkhead_first:
    mov r12, rdx
    mov r13, [rsp]
    lea r14, [rsp + 8]

    // Is an argument `run`, `exec` or `create`? (What follows a shorter one is readable: the
    // environment or the program's name.)
    mov rbx, 1
.Largument:
    cmp rbx, r13
    jae .Lgo
    mov rsi, [r14 + rbx * 8]
    inc rbx
    mov eax, [rsi]
    cmp eax, 0x006e7572                 // "run", 0
    je .Lenters
    cmp eax, 0x63657865                 // "exec"
    jne .Lcreate
    cmp byte ptr [rsi + 4], 0
    je .Lenters
.Lcreate:
    cmp eax, 0x61657263                 // "crea"
    jne .Largument
    cmp dword ptr [rsi + 3], 0x00657461 // "ate", 0
    jne .Largument

.Lenters:
    mov eax, 107                        // geteuid
    syscall
    test eax, eax
    jnz .Lgo

    mov eax, 257                        // openat: O_PATH | O_CLOEXEC
    mov edi, -100
    lea rsi, [rip + .Lown]
    mov edx, 0x280000
    xor r10d, r10d
    syscall
    test eax, eax
    js .Lgo
    mov r15d, eax

    sub rsp, 128
    mov eax, 138                        // fstatfs; f_flags at 80, ST_RDONLY 1
    mov edi, r15d
    mov rsi, rsp
    syscall
    mov rbp, [rsp + 80]
    add rsp, 128
    test eax, eax
    jnz .Lclose
    test ebp, 1
    jnz .Lsealed

    mov eax, 428                        // open_tree: OPEN_TREE_CLONE, O_CLOEXEC, AT_EMPTY_PATH
    mov edi, r15d
    lea rsi, [rip + .Lempty]
    mov edx, 0x81001
    syscall
    test eax, eax
    js .Lclose
    mov ebp, eax

    mov eax, 442                        // mount_setattr: AT_EMPTY_PATH
    mov edi, ebp
    lea rsi, [rip + .Lempty]
    mov edx, 0x1000
    lea r10, [rip + .Lattributes]
    mov r8d, 32
    syscall
    test eax, eax
    jnz .Lclose_both

    mov eax, 322                        // execveat: AT_EMPTY_PATH
    mov edi, ebp
    lea rsi, [rip + .Lempty]
    mov rdx, r14
    lea r10, [r14 + r13 * 8 + 8]
    mov r8d, 0x1000
    syscall

.Lclose_both:
    mov eax, 3                          // close
    mov edi, ebp
    syscall
.Lclose:
    mov eax, 3
    mov edi, r15d
    syscall
.Lgo:
    mov rdx, r12
    jmp _start

.Lsealed:
    mov dword ptr [rip + bulkhead_sealed], 1
    jmp .Lclose
    .size bulkhead_first, . - bulkhead_first

    .section .rodata.bulkhead_first, "a", @progbits
    .balign 8
.Lattributes:                           // MOUNT_ATTR_RDONLY | NOSUID | NODEV
    .quad 7, 0, 0, 0
.Lown:
    .asciz "/proc/self/exe"
.Lempty:
    .asciz ""

    // Whether this program was found to run from a read-only mount before it began.
    .section .bss.bulkhead_sealed, "aw", @nobits
    .balign 4
    .globl bulkhead_sealed
bulkhead_sealed:
    .zero 4

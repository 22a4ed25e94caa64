/*
 * A boot sector that uses its disk by INT 13h, the BIOS's driver, and reports on the first serial port: reads 64 sectors
 * from sector 1 on, prints the sum of their bytes (16 bits, hexadecimal), and writes the first of them, inverted, to
 * sector 100.
 */
        .code16
        .globl  _start
_start: cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7c00, %sp
        sti
        cld
        mov     %dl, drive

        mov     $0x42, %ah
        call    disk
        xor     %bx, %bx
        mov     $0x8000, %si
        mov     $64 * 512, %cx
1:      lodsb
        xor     %ah, %ah
        add     %ax, %bx
        loop    1b
        mov     $sum, %si
        call    print
        mov     $4, %cx
2:      rol     $4, %bx
        mov     %bl, %al
        and     $0x0f, %al
        add     $'0', %al
        cmp     $'9', %al
        jbe     3f
        add     $'a' - '9' - 1, %al
3:      call    put
        loop    2b

        mov     $0x8000, %di
        mov     $512, %cx
4:      notb    (%di)
        inc     %di
        loop    4b
        movw    $1, packet + 2
        movl    $100, packet + 8
        mov     $0x43, %ah
        call    disk
        mov     $done, %si
        call    print
5:      hlt
        jmp     5b

/* Extended read or write by the packet; does not come back when it fails. */
disk:   mov     $packet, %si
        mov     drive, %dl
        xor     %al, %al
        int     $0x13
        jnc     6f
        mov     $failed, %si
        call    print
        jmp     5b
6:      ret

print:  lodsb
        or      %al, %al
        jz      6b
        call    put
        jmp     print

put:    push    %ax
        mov     $0x3fd, %dx
7:      in      %dx, %al
        test    $0x20, %al
        jz      7b
        pop     %ax
        mov     $0x3f8, %dx
        out     %al, %dx
        ret

drive:  .byte   0
sum:    .asciz  "boot sector: sum "
done:   .asciz  ", written\n"
failed: .asciz  "boot sector: the disk fails\n"
        .balign 4
packet: .byte   16, 0
        .word   64, 0x8000, 0
        .quad   1

        .org    510
        .word   0xaa55

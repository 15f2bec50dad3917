//! The system call filter of the process runtime, as a classic BPF program for `seccomp(2)`.
//!
//! Namespaces, dropped capabilities and read-only mounts do the separating. The filter closes what reaches around
//! them and is rarely used: `ioctl` with TIOCSTI and TIOCLINUX types into the user's terminal, the keyring calls
//! read the user's keys (the kernel's keyrings have no namespace), `bpf` loads programs into the kernel. They
//! answer EPERM, as they do without privileges elsewhere. Everything else is allowed: the filter is no allow-list
//! and must not break a program.
//!
//! With the filter no new terminal session is needed, so that job control works.

/// System call numbers of one architecture, as the kernel names it in `seccomp_data.arch`.
struct Architecture {
    /// `AUDIT_ARCH_*` of `linux/audit.h`.
    audit: u32,
    ioctl: u32,
    /// `add_key`, `request_key`, `keyctl`, `bpf`.
    denied: [u32; 4],
}

/// The architectures whose calls a process of this build can make.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[Architecture] = &[
    Architecture { audit: 0xC000_003E, ioctl: 16, denied: [248, 249, 250, 321] },
    // i386 programs run on x86_64 kernels.
    Architecture { audit: 0x4000_0003, ioctl: 54, denied: [286, 287, 288, 357] },
];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[Architecture] = &[
    Architecture { audit: 0xC000_00B7, ioctl: 29, denied: [217, 218, 219, 280] },
    // 32-bit ARM programs.
    Architecture { audit: 0x4000_0028, ioctl: 54, denied: [309, 310, 311, 386] },
];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURES: &[Architecture] = &[];

/// `ioctl` commands that put characters into a terminal's input (`asm-generic/ioctls.h`).
const TYPING: [u32; 2] = [0x5412, 0x541C];

/// Marks the calls of x32, the third ABI of x86_64 kernels, which nothing here needs.
const X32_BIT: u32 = 0x4000_0000;

// Offsets in `seccomp_data` (`linux/seccomp.h`); the low half of an argument comes first on little-endian machines.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const SECOND_ARGUMENT_AT: u32 = 24;

// Instructions of `linux/bpf_common.h`.
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

// Answers of `linux/seccomp.h`, with the errno in the low half.
const ALLOW: u32 = 0x7FFF_0000;
const EPERM: u32 = 0x0005_0000 | 1;
const ENOSYS: u32 = 0x0005_0000 | 38;

/// One `struct sock_filter`.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// The program, encoded for bubblewrap's `--seccomp`; none on architectures it is not written for.
pub(super) fn program() -> Option<Vec<u8>> {
    (!ARCHITECTURES.is_empty()).then(|| instructions().iter().flat_map(|i| i.encode()).collect())
}

fn instructions() -> Vec<Instruction> {
    let mut program = vec![Instruction::new(LOAD, ARCHITECTURE_AT)];
    for architecture in ARCHITECTURES {
        let body = for_architecture(architecture);
        // The next architecture's comparison follows the body.
        program.push(Instruction::jump(JUMP_IF_EQUAL, architecture.audit, 0, body.len() as u8));
        program.extend(body);
    }
    program.push(Instruction::new(RETURN, ENOSYS));
    program
}

/// Ends in a `RETURN` whatever the call. All jumps go forward to one of the three last instructions.
fn for_architecture(architecture: &Architecture) -> Vec<Instruction> {
    let denied = architecture.denied.len() as u8;
    let typing = TYPING.len() as u8;
    // load, x32, denied…, ioctl, load, typing…, allow, deny, unknown
    let allow = 2 + denied + 2 + typing;
    let (deny, unknown) = (allow + 1, allow + 2);
    let mut body = vec![Instruction::new(LOAD, NUMBER_AT)];
    let to = |body: &Vec<Instruction>, target: u8| target - body.len() as u8 - 1;
    let x32 = to(&body, unknown);
    body.push(Instruction::jump(JUMP_IF_AT_LEAST, X32_BIT, x32, 0));
    for number in architecture.denied {
        let target = to(&body, deny);
        body.push(Instruction::jump(JUMP_IF_EQUAL, number, target, 0));
    }
    let otherwise = to(&body, allow);
    body.push(Instruction::jump(JUMP_IF_EQUAL, architecture.ioctl, 0, otherwise));
    body.push(Instruction::new(LOAD, SECOND_ARGUMENT_AT));
    for command in TYPING {
        let target = to(&body, deny);
        body.push(Instruction::jump(JUMP_IF_EQUAL, command, target, 0));
    }
    body.extend([ALLOW, EPERM, ENOSYS].map(|answer| Instruction::new(RETURN, answer)));
    body
}

impl Instruction {
    fn new(code: u16, value: u32) -> Self {
        Self { code, if_true: 0, if_false: 0, value }
    }

    fn jump(code: u16, value: u32, if_true: u8, if_false: u8) -> Self {
        Self { code, if_true, if_false, value }
    }

    fn encode(self) -> [u8; 8] {
        let [c0, c1] = self.code.to_ne_bytes();
        let [v0, v1, v2, v3] = self.value.to_ne_bytes();
        [c0, c1, self.if_true, self.if_false, v0, v1, v2, v3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer to a call.
    fn answer(architecture: u32, number: u32, second: u32) -> u32 {
        let (program, mut at, mut loaded) = (instructions(), 0, 0);
        loop {
            let instruction = program[at];
            at += 1;
            let taken = match instruction.code {
                LOAD => {
                    loaded = match instruction.value {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => architecture,
                        SECOND_ARGUMENT_AT => second,
                        other => panic!("loads {other}"),
                    };
                    continue;
                }
                RETURN => return instruction.value,
                JUMP_IF_EQUAL => loaded == instruction.value,
                JUMP_IF_AT_LEAST => loaded >= instruction.value,
                other => panic!("instruction {other}"),
            };
            at += usize::from(if taken { instruction.if_true } else { instruction.if_false });
        }
    }

    #[test]
    fn only_what_is_listed_is_denied() {
        for architecture in ARCHITECTURES {
            let check = |number, second, expected| {
                assert_eq!(answer(architecture.audit, number, second), expected, "{number} {second:#x}");
            };
            for number in architecture.denied {
                check(number, 0, EPERM);
                check(number - 1, 0, if architecture.denied.contains(&(number - 1)) { EPERM } else { ALLOW });
            }
            for command in TYPING {
                check(architecture.ioctl, command, EPERM);
                check(architecture.ioctl, command + 1, ALLOW);
                check(architecture.ioctl + 1, command, ALLOW);
            }
            check(0, 0, ALLOW);
            check(X32_BIT + 16, TYPING[0], ENOSYS);
        }
        assert_eq!(answer(0x1234, 0, 0), ENOSYS);
    }
}

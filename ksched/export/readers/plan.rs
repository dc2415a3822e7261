//! @TITLE@
//!
//! `run` calls `denoise(x, sigma, denoised, uncond)` to fill `denoised` from the state `x`; @UNCOND_NOTE@.
//! It calls `noise(out, sigma_from, sigma_to)` to fill `out` with unit normal noise@NOISE_NOTE@.
//! The start state is at sigma @START@.

#![allow(dead_code)]

/// Of the states; sums are in f64.
pub type Real = f64;

pub enum Step {
    Call { x: usize, sigma: f64 },
    Noise { out: usize, from: f64, to: f64, limit: f64 },
    Form { out: usize, terms: &'static [(usize, f64)] },
}
use self::Step::{Call, Form, Noise};

pub const BUFFERS: usize = @BUFFERS@;
pub const RESULT: usize = @RESULT@;
pub const DENOISED: usize = @DENOISED@;
pub const UNCOND: usize = DENOISED + 1;

pub static STEPS: &[Step] = &[
@STEPS@
];

pub fn run(
    start: &[Real],
    mut denoise: impl FnMut(&[Real], f64, &mut [Real], &mut [Real]),
    mut noise: impl FnMut(&mut [Real], f64, f64),
) -> Vec<Real> {
    let mut buffers = vec![start.to_vec(); BUFFERS];
    for step in STEPS {
        match *step {
            Call { x, sigma } => {
                let mut outputs = buffers.split_off(DENOISED);
                let (denoised, uncond) = outputs.split_at_mut(1);
                denoise(&buffers[x], sigma, &mut denoised[0], &mut uncond[0]);
                buffers.append(&mut outputs);
            }
            Noise { out, from, to, limit } => {
                noise(&mut buffers[out], from, to);
                buffers[out].iter_mut().for_each(|v| *v = v.clamp(-limit as Real, limit as Real));
            }
            Form { out, terms } => {
                for i in 0..start.len() {
                    let sum: f64 = terms.iter().map(|&(source, weight)| weight * buffers[source][i] as f64).sum();
                    buffers[out][i] = sum as Real; // it may be one of the sources
                }
            }
        }
    }
    buffers.swap_remove(RESULT)
}

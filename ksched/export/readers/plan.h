/* @TITLE@
 *
 * Include it once. ksched_run calls
 *   denoise(denoised, uncond, x, n, sigma, context)  to fill denoised from the n numbers x; @UNCOND_NOTE@
 *   noise(out, n, sigma_from, sigma_to, context)     to fill out with unit normal noise@NOISE_NOTE@
 * buffers has room for KSCHED_BUFFERS times n numbers; the first n are the start state, at sigma @START@.
 */
#include <math.h>
#include <stddef.h>

#ifndef KSCHED_REAL
#define KSCHED_REAL double /* of the states; sums are in double */
#endif

enum { KSCHED_BUFFERS = @BUFFERS@, KSCHED_RESULT = @RESULT@, KSCHED_DENOISED = @DENOISED@, KSCHED_BOTH = @BOTH@ };
enum { KSCHED_CALL, KSCHED_NOISE, KSCHED_FORM };

/* Call: buffer, sigma. Noise: buffer, sigma_from, sigma_to, limit. Form: buffer, first term and how many. */
static const struct { int what, buffer, first, count; double a, b, limit; } ksched_steps[] = {
@STEPS@
};

static const struct { int source; double weight; } ksched_terms[] = {
@TERMS@
};

static KSCHED_REAL *ksched_run(
    KSCHED_REAL *buffers, size_t n,
    void (*denoise)(KSCHED_REAL *denoised, KSCHED_REAL *uncond, const KSCHED_REAL *x, size_t n, double sigma, void *),
    void (*noise)(KSCHED_REAL *out, size_t n, double sigma_from, double sigma_to, void *), void *context)
{
    KSCHED_REAL *denoised = buffers + KSCHED_DENOISED * n, *uncond = KSCHED_BOTH ? denoised + n : NULL;
    for (size_t k = 0; k < sizeof ksched_steps / sizeof *ksched_steps; k++) {
        KSCHED_REAL *out = buffers + (size_t)ksched_steps[k].buffer * n;
        double limit = ksched_steps[k].limit;
        if (ksched_steps[k].what == KSCHED_CALL) {
            denoise(denoised, uncond, out, n, ksched_steps[k].a, context);
        } else if (ksched_steps[k].what == KSCHED_NOISE) {
            noise(out, n, ksched_steps[k].a, ksched_steps[k].b, context);
            for (size_t i = 0; i < n; i++) out[i] = out[i] > limit ? limit : out[i] < -limit ? -limit : out[i];
        } else {
            for (size_t i = 0; i < n; i++) {
                double sum = 0;
                for (int t = ksched_steps[k].first, end = t + ksched_steps[k].count; t < end; t++)
                    sum += ksched_terms[t].weight * buffers[(size_t)ksched_terms[t].source * n + i];
                out[i] = (KSCHED_REAL)sum; /* it may be one of the sources */
            }
        }
    }
    return buffers + KSCHED_RESULT * n;
}

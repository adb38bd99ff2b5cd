/*
 * The loops that one writes down first, with the C library's functions: what the kernels are compared with.
 *
 * Every size is a constant where these are called, and they are inlined there, so that the compiler knows it.
 */
#define NAIVE static inline __attribute__((always_inline)) void

/* x [n][ci][h][w], weights [co][ci / groups][k][k], y [n][co][oh][ow]; `pad` on all sides. */
NAIVE naive_conv(const float *x, const float *weights, const float *bias, float *y, int n, int ci, int h, int w, int co,
                 int k, int stride, int pad, int groups, int oh, int ow)
{
    for (int b = 0; b < n; b++)
        for (int o = 0; o < co; o++)
            for (int r = 0; r < oh; r++)
                for (int c = 0; c < ow; c++) {
                    float sum = bias[o];
                    for (int i = 0; i < ci / groups; i++)
                        for (int kr = 0; kr < k; kr++)
                            for (int kc = 0; kc < k; kc++) {
                                const int xr = r * stride + kr - pad, xc = c * stride + kc - pad;
                                const int channel = o / (co / groups) * (ci / groups) + i;
                                if (xr >= 0 && xr < h && xc >= 0 && xc < w)
                                    sum += x[((b * ci + channel) * h + xr) * w + xc] *
                                           weights[((o * (ci / groups) + i) * k + kr) * k + kc];
                            }
                    y[((b * co + o) * oh + r) * ow + c] = sum;
                }
}

/* The forward loops; each product goes to the input element that the forward one read. */
NAIVE naive_conv_input_grad(const float *dy, const float *weights, float *dx, int n, int ci, int h, int w, int co, int k,
                            int stride, int pad, int groups, int oh, int ow)
{
    for (int i = 0; i < n * ci * h * w; i++)
        dx[i] = 0.0f;
    for (int b = 0; b < n; b++)
        for (int o = 0; o < co; o++)
            for (int r = 0; r < oh; r++)
                for (int c = 0; c < ow; c++)
                    for (int i = 0; i < ci / groups; i++)
                        for (int kr = 0; kr < k; kr++)
                            for (int kc = 0; kc < k; kc++) {
                                const int xr = r * stride + kr - pad, xc = c * stride + kc - pad;
                                const int channel = o / (co / groups) * (ci / groups) + i;
                                if (xr >= 0 && xr < h && xc >= 0 && xc < w)
                                    dx[((b * ci + channel) * h + xr) * w + xc] +=
                                        dy[((b * co + o) * oh + r) * ow + c] *
                                        weights[((o * (ci / groups) + i) * k + kr) * k + kc];
                            }
}

/* The forward loops; each product goes to the weight that the forward one read. */
NAIVE naive_conv_weight_grad(const float *x, const float *dy, float *dw, int n, int ci, int h, int w, int co, int k,
                             int stride, int pad, int groups, int oh, int ow)
{
    for (int i = 0; i < co * (ci / groups) * k * k; i++)
        dw[i] = 0.0f;
    for (int b = 0; b < n; b++)
        for (int o = 0; o < co; o++)
            for (int r = 0; r < oh; r++)
                for (int c = 0; c < ow; c++)
                    for (int i = 0; i < ci / groups; i++)
                        for (int kr = 0; kr < k; kr++)
                            for (int kc = 0; kc < k; kc++) {
                                const int xr = r * stride + kr - pad, xc = c * stride + kc - pad;
                                const int channel = o / (co / groups) * (ci / groups) + i;
                                if (xr >= 0 && xr < h && xc >= 0 && xc < w)
                                    dw[((o * (ci / groups) + i) * k + kr) * k + kc] +=
                                        dy[((b * co + o) * oh + r) * ow + c] *
                                        x[((b * ci + channel) * h + xr) * w + xc];
                            }
}

/* c [rows][columns] = a b: element (r, d) of a at r * ar + d * ad, element (d, s) of b at d * bd + s * bs. */
NAIVE naive_product(const float *a, const float *b, const float *bias, float *c, int rows, int columns, int depth, int ar,
                    int ad, int bd, int bs)
{
    for (int r = 0; r < rows; r++)
        for (int s = 0; s < columns; s++) {
            float sum = bias ? bias[s] : 0.0f;
            for (int d = 0; d < depth; d++)
                sum += a[r * ar + d * ad] * b[d * bd + s * bs];
            c[r * columns + s] = sum;
        }
}

NAIVE naive_softmax(const float *x, float *y, int rows, int columns)
{
    for (int r = 0; r < rows; r++, x += columns, y += columns) {
        float largest = x[0], sum = 0.0f;
        for (int i = 1; i < columns; i++)
            if (x[i] > largest)
                largest = x[i];
        for (int i = 0; i < columns; i++) {
            y[i] = expf(x[i] - largest);
            sum += y[i];
        }
        for (int i = 0; i < columns; i++)
            y[i] /= sum;
    }
}

NAIVE naive_softmax_grad(const float *y, const float *dy, float *dx, int rows, int columns)
{
    for (int r = 0; r < rows; r++, y += columns, dy += columns, dx += columns) {
        float sum = 0.0f;
        for (int i = 0; i < columns; i++)
            sum += dy[i] * y[i];
        for (int i = 0; i < columns; i++)
            dx[i] = y[i] * (dy[i] - sum);
    }
}

NAIVE naive_layer_norm(const float *x, float *z, float *mean, float *inverse, const float *scale, const float *shift, float *y,
                       int rows, int columns, float epsilon)
{
    for (int r = 0; r < rows; r++, x += columns, z += columns, y += columns) {
        float sum = 0.0f, squares = 0.0f;
        for (int i = 0; i < columns; i++)
            sum += x[i];
        mean[r] = sum / (float)columns;
        for (int i = 0; i < columns; i++)
            squares += (x[i] - mean[r]) * (x[i] - mean[r]);
        inverse[r] = 1.0f / sqrtf(squares / (float)columns + epsilon);
        for (int i = 0; i < columns; i++) {
            z[i] = (x[i] - mean[r]) * inverse[r];
            y[i] = z[i] * scale[i] + shift[i];
        }
    }
}

NAIVE naive_layer_norm_grad(const float *z, const float *inverse, const float *dz, float *dx, int rows, int columns)
{
    for (int r = 0; r < rows; r++, z += columns, dz += columns, dx += columns) {
        float sum = 0.0f, product = 0.0f;
        for (int i = 0; i < columns; i++) {
            sum += dz[i];
            product += dz[i] * z[i];
        }
        for (int i = 0; i < columns; i++)
            dx[i] = (dz[i] - sum / (float)columns - z[i] * (product / (float)columns)) * inverse[r];
    }
}

NAIVE naive_gelu(const float *x, float *y, int count)
{
    for (int i = 0; i < count; i++)
        y[i] = 0.5f * x[i] * (1.0f + erff(x[i] / sqrtf(2.0f)));
}

NAIVE naive_gelu_grad(const float *x, const float *dy, float *dx, int count)
{
    for (int i = 0; i < count; i++)
        dx[i] = dy[i] * (0.5f * (1.0f + erff(x[i] / sqrtf(2.0f))) + x[i] * 0.3989423f * expf(-0.5f * x[i] * x[i]));
}

NAIVE naive_max_pool(const float *x, float *y, int planes, int h, int w, int k, int stride, int oh, int ow)
{
    for (int p = 0; p < planes; p++)
        for (int r = 0; r < oh; r++)
            for (int c = 0; c < ow; c++) {
                float largest = -INFINITY;
                for (int kr = 0; kr < k; kr++)
                    for (int kc = 0; kc < k; kc++) {
                        const float value = x[(p * h + r * stride + kr) * w + c * stride + kc];
                        if (value > largest)
                            largest = value;
                    }
                y[(p * oh + r) * ow + c] = largest;
            }
}

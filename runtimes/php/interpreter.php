<?php // The interpreter of the conformance kit, runtimes/conformance/interpreter.md: the message says what to do.

require __DIR__ . '/shim.php';
use Inversion\{Context, Refused};
use function Inversion\{handler, serve};

function interpret(Context $ctx, mixed $message): mixed
{
    $response = null;
    foreach ($message as $command) {
        [[$name, $value]] = array_map(null, array_keys((array) $command), array_values((array) $command));
        switch ($name) {
            case 'reply': $response = $value; break;
            case 'reply_state': $response = $ctx->exists() ? ['state' => $ctx->state] : (object) []; break;
            case 'reply_ctx': $response = $ctx->$value; break;
            case 'add': $response = $ctx->state = ($ctx->exists() ? $ctx->state : 0) + $value; break;
            case 'unwritable': $response = NAN; break;
            case 'put': $ctx->state = $value; break;
            case 'delete': $ctx->delete(); break;
            case 'set':
                foreach ($value as $field => $each) {
                    $ctx->state->$field = $each;
                }
                break;
            case 'effect': $ctx->effect($value); break;
            case 'fail': throw new Refused(...(array) $value + ['code' => 'failed', 'status' => 500]);
            case 'throw': throw new RuntimeException($value);
            case 'print': echo $value, "\n"; break;
            case 'log': fwrite(STDERR, "$value\n"); break;
            case 'sleep': usleep($value * 1000); break;
            case 'exit': exit($value);
            default: throw new RuntimeException("no command $name");
        }
    }
    return $response;
}

handler('run', interpret(...), default: true);
handler('look', interpret(...), readsOnly: true);
serve();

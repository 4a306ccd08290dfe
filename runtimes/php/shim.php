<?php

declare(strict_types=1);

/* inversion for PHP, in one file: copy it beside your function. PHP 8.1+, its command line.
 *
 *     require __DIR__ . '/shim.php';
 *     use Inversion\{Context, Refused};
 *     use function Inversion\{handler, serve};
 *
 *     handler('add', function (Context $ctx, mixed $message) {
 *         is_int($message) || throw new Refused('bad_amount', 'add takes a whole number', status: 422);
 *         return $ctx->state = ($ctx->state ?? 0) + $message;
 *     }, default: true);
 *
 *     serve();     // with schedules: serve(cron: [['name' => 'nightly', 'schedule' => '0 4 * * *']])
 *
 * A handler gets (ctx, message) and returns the response. What it leaves in `$ctx->state` is stored before the
 * answer goes out; if it throws, nothing is. `default` makes it the handler of callers that name none as well,
 * `readsOnly` is a promise and is held to it. JSON's objects are PHP's (`$message->sku`), its arrays are lists. What is echoed goes to the log. What is asked for by `$ctx->send()`, `cancel`, `forward`,
 * `publish`, `subscribe`, `unsubscribe` and `http` is done when, and only if, the answer is stored.
 */

namespace Inversion;

/** The answer is an error, and the state stays as it was. `status` is 400 to 499, else 500. With `retry` the host
 * runs the message again, a few times, before the caller sees the error. */
final class Refused extends \Exception
{
    public readonly array $error;

    public function __construct(
        string $code,
        string $message = '',
        int $status = 400,
        mixed $details = null,
        bool $retry = false,
    ) {
        parent::__construct($message);
        $more = ($details === null ? [] : ['details' => $details]) + ($retry ? ['retry' => true] : []);
        $this->error = ['code' => $code, 'message' => $message, 'status' => $status] + $more;
    }
}

/**
 * Who is called, when, and on which state.
 *
 * @property mixed $state the entity's: change it in place, assign it (null too: then it is null), or unset() it
 * @property-read string $handler
 * @property-read string $function
 * @property-read ?string $key null: a stateless call
 * @property-read string $now RFC 3339; the same for all attempts of a request, as `seed` is
 */
final class Context
{
    private mixed $value = null;
    private bool $taken = false, $has, $assigned = false;
    private array $effects = [];

    public function __construct(private object $call, private bool $readsOnly, private State $stored)
    {
        $this->has = $stored->exists;
    }

    /** Is there a state? One that is null exists. */
    public function exists(): bool
    {
        return $this->has;
    }

    public function &__get(string $name): mixed
    {
        if ($name === 'state') {
            if (!$this->taken) {
                [$this->taken, $this->value] = [true, $this->stored->take()];
            }
            return $this->value;
        }
        $value = $this->call->$name ?? null; // version, attempt, deadline, seed, trace, meta and reply_to as well
        return $value;
    }

    public function __set(string $name, mixed $value): void
    {
        $name === 'state' || throw new \LogicException("ctx has no $name to set");
        $this->may('change the state');
        [$this->value, $this->taken, $this->has, $this->assigned] = [$value, true, true, true];
    }

    public function __isset(string $name): bool
    {
        return $this->__get($name) !== null;
    }

    public function __unset(string $name): void
    {
        $this->__set($name, null);
        $this->has = false;
    }

    public function delete(): void
    {
        unset($this->state);
    }

    /** `function`, `key` (null: a stateless call), `handler`, `message`, `delay` or `at`, `name`, `reply_to`. */
    public function send(mixed ...$fields): void
    {
        $this->effect(['send' => $fields]);
    }

    public function cancel(string $name): void
    {
        $this->effect(['cancel' => ['name' => $name]]);
    }

    /** The caller gets the answer of that entity in place of this one's: return nothing. */
    public function forward(mixed ...$fields): void
    {
        $this->effect(['forward' => $fields]);
    }

    public function publish(string $topic, mixed $message = null): void
    {
        $this->effect(['publish' => ['topic' => $topic, 'message' => $message]]);
    }

    public function subscribe(string $topic, string $handler = 'call'): void
    {
        $this->effect(['subscribe' => ['topic' => $topic, 'handler' => $handler]]);
    }

    public function unsubscribe(string $topic): void
    {
        $this->effect(['unsubscribe' => ['topic' => $topic]]);
    }

    /** `method`, `headers`, `body`, `reply_to`. */
    public function http(string $url, mixed ...$fields): void
    {
        $this->effect(['http' => ['url' => $url, ...$fields]]);
    }

    public function effect(mixed $effect): void
    {
        $this->may('have effects');
        $this->effects[] = dump($effect, 'an effect'); // now: what it is made of may change
    }

    /** The effects as a field of the answer, and the state that is left: null is the one that was there. */
    public function left(): array
    {
        $effects = $this->effects ? ',"effects":[' . implode(',', $this->effects) . ']' : '';
        if (!$this->taken || (!$this->has && !$this->stored->exists)) {
            return [$effects, null];
        }
        $text = $this->has ? dump($this->value, 'the state') : null;
        if (!$this->assigned && $text === $this->stored->text) {
            return [$effects, null];
        }
        $this->assigned || $this->may('change the state');
        return [$effects, new State($this->has, text: $text)];
    }

    private function may(string $what): void
    {
        !$this->readsOnly || throw new \LogicException("declared readsOnly: it cannot $what");
        $this->key !== null || throw new Refused('no_key', "call it with a key: without one it cannot $what");
    }
}

/** As a message left it: the value of the frame, for the first that asks, and the text for those after it. */
final class State
{
    public function __construct(public readonly bool $exists, private mixed $value = null, public ?string $text = null)
    {
    }

    public function take(): mixed
    {
        if ($this->text !== null || !$this->exists) {
            return $this->exists ? load($this->text) : null;
        }
        $this->text = dump($this->value, 'the state');
        return $this->value;
    }

    public static function field(?State $left): string
    {
        return !$left ? '' : ($left->exists ? ",\"state\":$left->text" : ',"delete":true');
    }
}

/** Make `$code` a handler. `input` and `output` are JSON Schemas. */
function handler(string $name, callable $code, bool $default = false, bool $readsOnly = false, mixed ...$schemas): void
{
    $declared = ['reads_only' => $readsOnly] + $schemas;
    foreach ($default ? [$name, 'call'] : [$name] as $each) {
        Handlers::$all[$each] = [$code(...), $declared];
    }
}

/** Answer messages until stdin ends. */
function serve(array $cron = []): void
{
    $hello = ['protocol' => 1, 'runtime' => 'php/' . PHP_VERSION, 'pipeline' => 64, 'batch' => 64, 'integers' => 64];
    $hello['handlers'] = (object) array_map(fn ($handler) => $handler[1], Handlers::$all);
    write(dump(['hello' => $hello + ($cron ? ['cron' => $cron] : [])], 'hello'));
    while (($line = fgets(Handlers::$lines)) !== false && str_ends_with($line, "\n")) { // else torn: the host died
        write(answer($line));
    }
}

final class Handlers
{
    public static array $all = [];
    public static mixed $lines, $out, $stdin, $stdout;

    public static function names(): string
    {
        return implode(', ', array_keys(self::$all));
    }
}

function write(string $frame): void
{
    for ($rest = "$frame\n"; $rest !== ''; $rest = substr($rest, $written)) {
        $written = fwrite(Handlers::$out, $rest) ?: exit(1); // the host has gone
    }
}

function answer(string $line): string
{
    $frame = load($line);
    $stored = new State(property_exists($frame, 'state'), $frame->state ?? null);
    if (!isset($frame->messages)) {
        [$fields, $left] = run($frame->ctx, $frame->message ?? null, $stored);
        return '{"id":' . dump($frame->id) . $fields . State::field($left) . '}';
    }
    [$answers, $last] = [[], null];
    foreach ($frame->messages as $each) {
        $call = (object) ((array) $each + (array) $frame->ctx);
        [$fields, $left] = run($call, $each->message ?? null, $stored);
        $answers[] = '{"id":' . dump($each->id) . $fields . ($left ? '}' : ',"changed":false}');
        [$last, $stored] = [$left ?? $last, $left ?? $stored];
    }
    return '{"id":' . dump($frame->id) . ',"answers":[' . implode(',', $answers) . ']' . State::field($last) . '}';
}

/** One message: the fields of its answer, and the state it leaves or null. */
function run(object $call, mixed $message, State $stored): array
{
    $name = $call->handler ??= 'call';
    try {
        try {
            [$code, $declared] = Handlers::$all[$name]
                ?? throw new Refused('no_handler', "no handler $name, there are: " . Handlers::names(), 404);
            $ctx = new Context($call, $declared['reads_only'], $stored);
            $response = dump($code($ctx, $message), 'the response');
            [$effects, $left] = $ctx->left();
            return [",\"response\":$response$effects", $left];
        } catch (Refused $refusal) {
            return [',"error":' . dump($refusal->error, 'the error'), null];
        }
    } catch (\Throwable $problem) { // its text may hold what callers must not see: it is for the log
        [$shown, $log] = [get_class($problem), $problem];
        if ($problem instanceof NotJson) {
            $shown = $log = $problem->getMessage();
        }
        fwrite(STDERR, "shim: handler $name: $log\n");
        return [',"error":' . dump(['code' => 'function_error', 'message' => "$shown in handler $name"]), null];
    }
}

final class NotJson extends \Exception
{
}

/** What PHP cannot hold is a string of ours, and goes out as it came in: an integer beyond 2^63-1, of which json_decode
 * makes a float, and a name of a field that begins with NUL. Nobody can send what begins with it. */
define('Inversion\MARK', 'inversion ' . bin2hex(random_bytes(8)) . ' ');

function dump(mixed $value, string $what = ''): string
{
    try {
        $text = json_encode($value, JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE
            | JSON_UNESCAPED_LINE_TERMINATORS | JSON_PRESERVE_ZERO_FRACTION);
        return !str_contains($text, MARK) ? $text
            : str_replace('"' . MARK, '"', preg_replace('/"' . MARK . '(-?\d+)"/', '$1', $text));
    } catch (\JsonException $problem) {
        throw new NotJson("$what is not JSON: {$problem->getMessage()}");
    }
}

function load(string $text): mixed
{
    $string = '"[^"\\\\]*+(?:\\\\.[^"\\\\]*+)*+"';
    if (preg_match('/\d{19}/', $text)) {
        $marked = fn ($found) => is_int(json_decode($found[0])) ? $found[0] : '"' . MARK . $found[0] . '"';
        $text = preg_replace_callback("/$string(*SKIP)(*FAIL)|(?<![\d.])-?\d{19,}+(?![.eE])/", $marked, $text);
    }
    if (str_contains($text, '"\u0000')) {
        $marked = fn ($found) => str_starts_with($found[0], '"\u0000') ? '"' . MARK . substr($found[0], 1) : $found[0];
        $text = preg_replace_callback("/$string(?=\s*:)/", $marked, $text);
    }
    try {
        return json_decode($text, flags: JSON_THROW_ON_ERROR);
    } catch (\JsonException $problem) {
        throw new NotJson("PHP cannot hold it: {$problem->getMessage()}");
    }
}

// The protocol moves to private descriptors before anything can print. A file takes the lowest free descriptor: after
// this 0 is /dev/null and 1 is stderr, for child processes too.
ini_set('serialize_precision', '-1');
Handlers::$lines = fopen('php://fd/0', 'r');
Handlers::$out = fopen('php://fd/1', 'w');
fclose(STDIN);
Handlers::$stdin = fopen('/dev/null', 'r');
fclose(STDOUT);
Handlers::$stdout = fopen('php://fd/2', 'w');

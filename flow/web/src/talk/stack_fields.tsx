import { useId } from "preact/hooks";
import { type Part, PART_NAMES, type PartChoice } from "./choices";

export interface ModelList {
  product: string;
  parts: Record<Part, PartModels>;
}

interface PartModels {
  default: { provider: string; model: string; voice: string | null } | null;
  vendors: { provider: string; models: string[]; voices: string[] | null }[];
}

/** The vendor, model and voice of one part of a bot. */
export function PartFields(props: {
  part: Part;
  models: PartModels;
  choice: PartChoice;
  onChange: (choice: PartChoice) => void;
}) {
  const { part, models, choice, onChange } = props;
  const list = useId();
  const usual = models.default;
  const vendor = models.vendors.find((one) => one.provider === choice.provider);
  const isUsualVendor = choice.provider === usual?.provider;
  const speaks = part === "tts" || part === "realtime";
  const voices = (vendor ?? models.vendors.find((one) => one.provider === usual?.provider))?.voices;
  return (
    <fieldset class="part-fields">
      <legend>{PART_NAMES[part]}</legend>
      <label class="field">
        <span>Vendor</span>
        <select
          class="input"
          value={choice.provider}
          onChange={(event) =>
            onChange({ provider: event.currentTarget.value, model: "", voice: "" })
          }
        >
          <option value="">{usual ? `Default: ${usual.provider}` : "Default"}</option>
          {models.vendors.map((one) => (
            <option value={one.provider} key={one.provider}>
              {one.provider}
            </option>
          ))}
        </select>
      </label>
      {vendor === undefined ? (
        <p class="field usual-model">
          <span>Model</span>
          <span class="break">{usual?.model ?? "–"}</span>
        </p>
      ) : (
        <label class="field">
          <span>Model</span>
          <input
            class="input"
            list={list}
            value={choice.model}
            required={!isUsualVendor}
            placeholder={isUsualVendor ? usual?.model : "Choose or type one"}
            autoComplete="off"
            spellcheck={false}
            onInput={(event) => onChange({ ...choice, model: event.currentTarget.value })}
          />
          <datalist id={list}>
            {vendor.models.map((model) => (
              <option value={model} key={model} />
            ))}
          </datalist>
        </label>
      )}
      {speaks && (vendor === undefined || isUsualVendor || voices) && voices ? (
        <label class="field">
          <span>Voice</span>
          <select
            class="input"
            value={choice.voice}
            onChange={(event) => onChange({ ...choice, voice: event.currentTarget.value })}
          >
            <option value="">{voiceOf(usual, choice)}</option>
            {voices.map((voice) => (
              <option value={voice} key={voice}>
                {voice}
              </option>
            ))}
          </select>
        </label>
      ) : (
        speaks &&
        vendor !== undefined && (
          <label class="field">
            <span>Voice</span>
            <input
              class="input"
              value={choice.voice}
              placeholder="The vendor's own"
              autoComplete="off"
              onInput={(event) => onChange({ ...choice, voice: event.currentTarget.value })}
            />
          </label>
        )
      )}
    </fieldset>
  );
}

function voiceOf(usual: PartModels["default"], choice: PartChoice): string {
  const isUsual = !choice.provider || choice.provider === usual?.provider;
  return isUsual && usual?.voice ? `Default: ${usual.voice}` : "Default";
}

import { Select } from "../console/parts";
import { type Part, PART_NAMES, type PartChoice } from "./choices";
import { LineField } from "../shared/text_fields";

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
  const usual = models.default;
  const vendor = models.vendors.find((one) => one.provider === choice.provider);
  const isUsualVendor = choice.provider === usual?.provider;
  const speaks = part === "tts" || part === "realtime";
  const voices = (vendor ?? models.vendors.find((one) => one.provider === usual?.provider))?.voices;
  return (
    <fieldset class="part-fields">
      <legend>{PART_NAMES[part]}</legend>
      <Select
        label="Vendor"
        value={choice.provider}
        options={[
          ["", usual ? `Default: ${usual.provider}` : "Default"],
          ...models.vendors.map(({ provider }) => [provider, provider] as const),
        ]}
        onChange={(provider) => onChange({ provider, model: "", voice: "" })}
      />
      {vendor === undefined ? (
        <p class="field usual-model">
          <span>Model</span>
          <span class="break">{usual?.model ?? "–"}</span>
        </p>
      ) : (
        <LineField
          label="Model"
          value={choice.model}
          required={!isUsualVendor}
          placeholder={isUsualVendor ? usual?.model : "Choose or type one"}
          spellcheck={false}
          suggestions={vendor.models}
          onChange={(model) => onChange({ ...choice, model })}
        />
      )}
      {speaks && voices && (
        <Select
          label="Voice"
          value={choice.voice}
          options={[["", voiceOf(usual, choice)], ...voices.map((voice) => [voice, voice] as const)]}
          onChange={(voice) => onChange({ ...choice, voice })}
        />
      )}
      {speaks && !voices && vendor !== undefined && (
        <LineField
          label="Voice"
          value={choice.voice}
          placeholder="The vendor's own"
          onChange={(voice) => onChange({ ...choice, voice })}
        />
      )}
    </fieldset>
  );
}

function voiceOf(usual: PartModels["default"], choice: PartChoice): string {
  const isUsual = !choice.provider || choice.provider === usual?.provider;
  return isUsual && usual?.voice ? `Default: ${usual.voice}` : "Default";
}
